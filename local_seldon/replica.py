"""One replica of a predictor: its process, its ports, and whether it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from local_seldon.ports import Ports
from local_seldon.probe import STARTING_PERIOD_S, ReadinessProbe
from local_seldon.process import Command, Process
from local_seldon.routes import Endpoint


class Replica:
    """What the cluster calls a pod. `template` tells replicas of an edited predictor from those before the edit."""

    def __init__(
        self,
        *,
        predictor: str,
        number: int,
        template: str,
        command: Callable[[Ports], Command],
        probe: ReadinessProbe,
        grace_s: float,
        log_directory: Path,
        client: httpx.AsyncClient,
        changed: Callable[[], None],
    ) -> None:
        self.predictor = predictor
        self.number = number
        self.template = template
        self.ready = False
        self.ports = Ports.free()
        self._command = command
        self._probe = probe
        self._grace_s = grace_s
        self._client = client
        self._changed = changed
        name = f"{predictor}-{number}"
        self.process = Process(name, self._next_command, log_directory / f"{name}.log", changed=self._process_changed)
        self._probing: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where requests for this replica go."""
        return Endpoint(self.predictor, self.number, self.ports)

    def start(self) -> None:
        """Start the process and the readiness probe."""
        self.process.start()
        self._probing = asyncio.create_task(self._probe_for_ever(), name=f"probe {self.process.name}")

    async def stop(self) -> None:
        """Drain: SIGTERM, wait for the pod's grace period, then SIGKILL."""
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing
        self.ready = False
        await self.process.stop(self._grace_s)

    def to_json(self) -> dict[str, Any]:
        """Return what `status` shows."""
        return {
            "replica": self.number,
            "pid": self.process.pid,
            "ready": self.ready,
            "restarts": self.process.restarts,
            "http": self.ports.http,
            "grpc": self.ports.grpc,
            "metrics": self.ports.metrics,
            "log": str(self.process.log_file),
        }

    def _next_command(self) -> Command:
        if self.process.restarts:  # somebody may have taken the ports in between
            self.ports = Ports.free()
        return self._command(self.ports)

    def _process_changed(self) -> None:
        if self.process.pid is None:
            self.ready = False
        self._changed()

    async def _probe_for_ever(self) -> None:
        failed = 0
        while True:
            pid = self.process.pid
            passed = pid is not None and await self._probe.passes(self._client, self.ports)
            failed = 0 if passed else failed + 1
            if passed != self.ready and (passed or failed >= self._probe.failures):
                # The answer may be of a process that has died since: only the one that was asked counts.
                self.ready = passed and self.process.pid == pid
                self._changed()
            await asyncio.sleep(self._probe.period_s if self.ready else STARTING_PERIOD_S)
