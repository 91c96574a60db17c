"""The rollout commands: options, driving the promoter in a terminal, output and exit codes.

May import every other room of `rollout`.
"""
