"""The rollout commands: options, the promoter at work in a terminal, output and exit codes.

Imports every other room.
"""
