"""One process that is kept running: started, logged, restarted with backoff, drained at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from local_seldon.backoff import Backoff

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Command:
    """What to start: program and arguments, its whole environment, its working directory."""

    argv: Sequence[str]
    env: Mapping[str, str]
    directory: Path


@dataclass
class Process:
    """One supervised process. `command` is asked before every start, so each start can have its own ports.

    Output goes to `log_file`, appended. `changed` is called when the process starts or ends.
    """

    name: str
    command: Callable[[], Command]
    log_file: Path
    changed: Callable[[], None] = lambda: None
    backoff: Backoff = field(default_factory=Backoff)
    pid: int | None = None
    restarts: int = 0
    _task: asyncio.Task[None] | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Begin to keep the process running."""
        self._task = asyncio.create_task(self._keep_running(), name=f"process {self.name}")

    async def stop(self, grace_s: float) -> None:
        """Ask the process to end (SIGTERM), and end it and its children (SIGKILL) when it has not after `grace_s`."""
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
            code = await self._run()
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
            # Its own session: Ctrl-C in the terminal reaches the controller alone, which then drains in order.
            process = await asyncio.create_subprocess_exec(
                *command.argv, env=dict(command.env), cwd=command.directory, stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.pid = process.pid
        log.info("process_started", process=self.name, pid=process.pid)
        self.changed()
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)  # it was asked to stop while it was being started
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
