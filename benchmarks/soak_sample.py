"""What the service holds at one moment of a soak test: memory, files, tasks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import resident_kb
from benchmarks.soak_world import SoakWorld


class Sample(NamedTuple):
    """The service at one moment: resident MB, files and event loop tasks of an average worker.

    files: those that it has open, without the connections that this client keeps to it.
    """

    at_s: float
    memory_mb: float
    files: float
    tasks: float


async def take_sample(world: SoakWorld, *, started_s: float) -> Sample | None:
    """Look at every worker that serves; None: there is none, because they only start."""
    usage = [used for pid in world.workers() if (used := _usage(pid))]
    if not usage:
        return None
    memory_mb, files = (sum(column) for column in zip(*usage, strict=True))
    files -= _sockets()
    tasks = await asyncio.to_thread(world.gauge, "churn_event_loop_tasks")
    average = (one / len(usage) for one in (memory_mb, files, tasks))
    return Sample(time.perf_counter() - started_s, *average)


def _sockets() -> int:
    """Return how many sockets this process has: its connections to the service, and a few that stay."""
    links = [_link(file) for file in Path("/proc/self/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:  # closed meanwhile
        return ""


def _usage(pid: int) -> tuple[float, int] | None:
    """Return a process's resident MB and its open files; None: it is gone, or only starts."""
    memory_kb = resident_kb(pid)
    try:
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    return (memory_kb / 1024, files) if memory_kb else None
