"""A server of the comparison, and one run of it: started on its core, ready, measured, stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from benchmarks.compare.queries import Query
from benchmarks.errors import MeasurementError
from benchmarks.load.target import Target
from benchmarks.programs import resident_kb, session_members
from local_seldon.ports import free_ports

# The client never runs on the server's core.
SERVER_CPU, CLIENT_CPU = 0, 1
READY_TIMEOUT_S = 90.0
POLL_S = 0.01
STOP_TIMEOUT_S = 15.0
LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Server:
    """How to start it. {rest}, {grpc} and {metrics} in command and environment become free ports.

    queries: its queries by the kind of measurement ("predict", "v2-rest", "v2-grpc").
    """

    key: str
    title: str
    command: tuple[str, ...]
    directory: Path
    ready_path: str
    queries: Mapping[str, Query]
    environment: Mapping[str, str] = field(default_factory=dict)


class RunningServer:
    """A started server: ready on entry, stopped with all its processes on exit."""

    def __init__(self, server: Server, *, cpu: int, log: Path) -> None:
        self._server = server
        self._log = log
        self._ports = {name: str(port) for name, port in zip(("rest", "grpc", "metrics"), free_ports(3), strict=True)}
        self._command = ["taskset", "-c", str(cpu), *(part.format_map(self._ports) for part in server.command)]
        self._process: subprocess.Popen[bytes] | None = None
        self.startup_s = 0.0

    def __enter__(self) -> RunningServer:
        environment = os.environ | {
            name: value.format_map(self._ports) for name, value in self._server.environment.items()
        }
        # A group of its own: what the server forks is stopped with it.
        with self._log.open("wb") as log:
            started_s = time.perf_counter()
            self._process = subprocess.Popen(
                self._command,
                cwd=self._server.directory,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while not self._is_ready():
                if self._process.poll() is not None:
                    raise MeasurementError(f"{self._server.title} ended while starting: {self._tail()}")
                if time.perf_counter() - started_s > READY_TIMEOUT_S:
                    raise MeasurementError(
                        f"{self._server.title} was not ready in {READY_TIMEOUT_S:g} s: {self._tail()}"
                    )
                time.sleep(POLL_S)
        except BaseException:
            self._stop()
            raise
        self.startup_s = time.perf_counter() - started_s
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def target(self, query: Query) -> Target:
        """Return where a query goes."""
        return Target("127.0.0.1", int(self._ports["grpc" if query.is_grpc else "rest"]), tls=False, prefix="")

    def counted(self, query: Query) -> float:
        """Return how many good answers the server itself has counted for a gRPC query."""
        page = httpx.get(f"http://127.0.0.1:{self._ports['metrics']}/metrics", timeout=5).text
        return sum(map(float, re.findall(query.counter, page, re.MULTILINE)))

    @property
    def pid(self) -> int:
        """The process that was started: the leader of the server's session."""
        assert self._process is not None  # noqa: S101 (only a started server is asked)
        return self._process.pid

    def resident_mb(self) -> float:
        """Return the resident memory of the server's processes together, in MB of 10^6 bytes."""
        sizes = [resident_kb(pid) for pid in session_members(self.pid)]
        return sum(sizes) * 1024 / 1e6

    def _is_ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self._ports['rest']}{self._server.ready_path}"
            return httpx.get(url, timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        members = session_members(process.pid)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # A supervisor may leave workers behind; they belong to the session that was created for it.
        for pid in members:
            try:
                if os.getsid(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _tail(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]) or "no output"
