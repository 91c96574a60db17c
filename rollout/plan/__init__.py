"""The plan of a rollout: rollout.yaml and options, read into one frozen value.

May import `checks`, `analysis`, `manifest` and `errors`.
"""
