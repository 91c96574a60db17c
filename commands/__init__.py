"""The command `churn-serving`: one tree of commands over all the other packages.

May import every package; none imports this one. The commands are defined in their packages: `handoff/commands.py`,
`rollout/cli/`, `local_seldon/commands.py`, `benchmarks/load/command.py`, `benchmarks/soak/command.py` and
`image/command.py`.
"""
