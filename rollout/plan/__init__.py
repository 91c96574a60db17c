"""What a rollout shall do: rollout.yaml and flags, read into one frozen plan. Imports `analysis`."""
