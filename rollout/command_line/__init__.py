"""What scripts/canary_promote.py takes, does and answers."""
