"""Processes that outlived their controller: after a SIGKILL of `up`, the next `up` or `down` ends them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KILL_AFTER_S = 10.0


def identity(pid: int) -> dict[str, int] | None:
    """Return a process's pid and start time (clock ticks since boot), or None when it is gone or a zombie.

    The start time tells it from another process that got the same pid later.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else {"pid": pid, "started_ticks": int(fields[19])}


def clear(runtime: Mapping[str, Any]) -> list[int]:
    """End what a controller that was killed has left, and remove its sockets. Return the ended processes' pids."""
    ended = end(runtime.get("processes", []))
    if socket := runtime.get("admin_socket"):
        shutil.rmtree(Path(socket).parent, ignore_errors=True)
    return ended


def end(recorded: Iterable[dict[str, Any]]) -> list[int]:
    """End those recorded processes that still are the same: SIGTERM, later SIGKILL. Return their pids."""
    alive = [process for process in recorded if identity(process["pid"]) == process]
    for process in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process["pid"], signal.SIGTERM)
    deadline_s = time.monotonic() + KILL_AFTER_S
    waiting = alive
    while waiting := [process for process in waiting if identity(process["pid"]) == process]:
        if time.monotonic() > deadline_s:
            for process in waiting:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process["pid"], signal.SIGKILL)
        time.sleep(0.02)
    return [process["pid"] for process in alive]
