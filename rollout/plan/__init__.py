"""What a rollout is to do: rollout.yaml and options, read into one frozen plan.

May import `analysis`, `manifest` and `errors`.
"""
