"""The rollout itself: state, observation, rules, decision, and the promoter that carries decisions out.

May import `plan`, `analysis`, `evidence`, `targets` and every room below them.
"""
