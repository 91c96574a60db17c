"""The command `churn-serving`: one tree of commands over all the other packages.

May import every package; none imports this one. The commands are defined in their packages: `handoff/commands.py`,
`rollout/cli/`, `local_seldon/commands.py`, `benchmarks/load/command.py`, `benchmarks/soak/command.py` and
`image/command.py`.
"""

from __future__ import annotations

import sys
from types import TracebackType


def _end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show no traceback after Ctrl-C: it may come while the commands are imported, or at the very end."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _end_quietly
