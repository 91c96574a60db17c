"""Supervised processes: start, logs, restart with backoff, drain; also finds processes of an earlier controller."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

KILL_AFTER_S = 10.0
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential waits like the kubelet's (10 s to 300 s), scaled down for one machine.

    After an uptime of `reset_after_s`, a process starts from the first wait again.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    reset_after_s: float = 60.0

    def wait_s(self, deaths: int) -> float:
        """Return the wait after the n-th death in a row (1 is the first)."""
        return float(min(self.first_s * 2 ** (deaths - 1), self.longest_s))

    def deaths_in_a_row(self, deaths: int, uptime_s: float) -> int:
        """Return the number of consecutive deaths after a process died with this uptime."""
        return 1 if uptime_s >= self.reset_after_s else deaths + 1


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, complete environment and working directory."""

    argv: Sequence[str]
    env: Mapping[str, str]
    directory: Path


@dataclass
class Process:
    """One supervised process. `command` is called before every start, so each start can have other ports.

    Output goes to `log_file`, appended. `changed` is called when the process starts or ends.
    exit_code: of the last time it ended, None before that. ends_with_us: the kernel kills it when this process is
    killed; otherwise it runs on, and is found by its identity.
    """

    name: str
    command: Callable[[], Command]
    log_file: Path
    changed: Callable[[], None] = lambda: None
    backoff: Backoff = field(default_factory=Backoff)
    ends_with_us: bool = False
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    _task: asyncio.Task[None] | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Start to supervise the process."""
        self._task = asyncio.create_task(self._keep_running(), name=f"process {self.name}")

    async def stop(self, grace_s: float) -> None:
        """Send SIGTERM to the process; after `grace_s`, send SIGKILL to it and its children."""
        self._stopping.set()
        if self._task is None:
            return
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait([self._task], timeout=grace_s)
        if not done:
            log.warning("process_killed", process=self.name, after_s=grace_s)
            self._signal(signal.SIGKILL)
            await self._task
        self._task.result()

    async def _keep_running(self) -> None:
        deaths = 0
        while not self._stopping.is_set():
            started_s = time.monotonic()
            code = self.exit_code = await self._run()
            self.changed()
            if self._stopping.is_set():
                return
            deaths = self.backoff.deaths_in_a_row(deaths, time.monotonic() - started_s)
            wait_s = self.backoff.wait_s(deaths)
            log.warning("process_died", process=self.name, exit_code=code, restart_in_s=wait_s, log=str(self.log_file))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            self.restarts += 1

    async def _run(self) -> int:
        command = self.command()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as output:
            # A separate session: Ctrl-C in the terminal reaches only the controller, which then drains in order.
            process = await asyncio.create_subprocess_exec(
                *command.argv, env=dict(command.env), cwd=command.directory, stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
                preexec_fn=_end_with_parent if self.ends_with_us else None,
            )  # fmt: skip
        self.pid = process.pid
        log.info("process_started", process=self.name, pid=process.pid)
        self.changed()
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)  # stop was requested during the start
        try:
            return await process.wait()
        finally:
            self.pid = None

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def identity(pid: int) -> dict[str, int] | None:
    """Return a process's pid and start time (clock ticks since boot), or None when it has ended or is a zombie.

    The start time distinguishes it from another process that got the same pid later.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else {"pid": pid, "started_ticks": int(fields[19])}


def end(recorded: Iterable[dict[str, Any]]) -> list[int]:
    """End the remaining processes of a killed controller: SIGTERM, later SIGKILL. Return their pids."""
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
