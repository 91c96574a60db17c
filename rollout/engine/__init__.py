"""The rollout: state, observation, rules, decision, and the promoter that executes decisions.

May import `plan`, `analysis`, `evidence`, `targets` and every room below them.
"""
