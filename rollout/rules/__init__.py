"""The rules of a rollout, sorted by what they look at; machine.py says which one wins."""
