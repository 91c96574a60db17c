"""One replica of a predictor, the equivalent of a pod: its ports, its process and its readiness."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from local_seldon.ports import HOST, free_ports
from local_seldon.process import Command, Process
from rollout.manifest.predictor import Container

# A new replica is probed often, so that a rollout on one machine takes seconds; later as in the manifest, but at
# least once a second.
STARTING_PERIOD_S = 0.1
LONGEST_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one replica, all on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Ports:
        """Choose three ports that nothing listens on."""
        http, grpc, metrics = free_ports(3)
        return cls(http, grpc, metrics)


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """The container's readiness probe, as the kubelet runs it; without one, only a TCP connection (which passes early).

    path: None for TCP. failures: how many consecutive ones make a ready replica unready.
    """

    path: str | None
    period_s: float
    timeout_s: float
    failures: int

    @classmethod
    def of(cls, container: Container) -> ReadinessProbe:
        """Read the container's probe, with Kubernetes' defaults."""
        probe = container.readiness_probe
        more = (probe.model_extra or {}) if probe else {}
        return cls(
            path=probe.http_get.path if probe and probe.http_get else None,
            period_s=min(float(more.get("periodSeconds", 10)), LONGEST_PERIOD_S),
            timeout_s=float(more.get("timeoutSeconds", 1)),
            failures=int(more.get("failureThreshold", 3)),
        )

    async def passes(self, client: httpx.AsyncClient, ports: Ports) -> bool:
        """Probe once; a status of 200 to 399 passes, or an accepted connection without a path."""
        try:
            if self.path is None:
                _, writer = await asyncio.wait_for(asyncio.open_connection(HOST, ports.http), self.timeout_s)
                writer.close()
                return True
            answer = await client.get(f"http://{HOST}:{ports.http}{self.path}", timeout=self.timeout_s)
        except (OSError, TimeoutError, httpx.HTTPError):
            return False
        return 200 <= answer.status_code < 400


class Replica:
    """The equivalent of a pod. `template` distinguishes replicas from before and after an edit of the predictor.

    image_pull_s: how long it waits before its process is started, as a pod does whose image is being pulled.
    """

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
        image_pull_s: float = 0.0,
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
        self._image_pull_s = image_pull_s
        name = f"{predictor}-{number}"
        self.process = Process(name, self._next_command, log_directory / f"{name}.log", changed=self._process_changed)
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the process and the readiness probe."""
        self._working = asyncio.create_task(self._work(), name=f"replica {self.process.name}")

    async def stop(self) -> None:
        """Drain: SIGTERM, wait for the pod's grace period, then SIGKILL."""
        if self._working is not None:
            self._working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._working
        self.ready = False
        await self.process.stop(self._grace_s)

    @property
    def waiting(self) -> str:
        """The reason why the process does not run, in the kubelet's terms; empty while it runs."""
        if self.process.pid is not None:
            return ""
        return (
            "CrashLoopBackOff" if self.process.restarts or self.process.exit_code is not None else "ContainerCreating"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `status` shows."""
        return {
            "replica": self.number,
            "pid": self.process.pid,
            "ready": self.ready,
            "waiting": self.waiting,
            "restarts": self.process.restarts,
            "last_exit_code": self.process.exit_code,
            "http": self.ports.http,
            "grpc": self.ports.grpc,
            "metrics": self.ports.metrics,
            "log": str(self.process.log_file),
        }

    def _next_command(self) -> Command:
        if self.process.restarts:  # another process may have taken the ports meanwhile
            self.ports = Ports.free()
        return self._command(self.ports)

    def _process_changed(self) -> None:
        if self.process.pid is None:
            self.ready = False
        self._changed()

    async def _work(self) -> None:
        await asyncio.sleep(self._image_pull_s)
        self.process.start()
        failed = 0
        while True:
            pid = self.process.pid
            passed = pid is not None and await self._probe.passes(self._client, self.ports)
            failed = 0 if passed else failed + 1
            if passed != self.ready and (passed or failed >= self._probe.failures):
                # The answer may be from a process that has since died; only the probed one counts.
                self.ready = passed and self.process.pid == pid
                self._changed()
            await asyncio.sleep(self._probe.period_s if self.ready else STARTING_PERIOD_S)
