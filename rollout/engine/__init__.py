"""The rollout itself: state, observation, rules, decision, and what carries them out.

Imports `plan`, `analysis`, `evidence` and `targets`.
"""
