"""The processes of a soak test: a Redis that persists its data, and the service with several workers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import TracebackType

from benchmarks.errors import MeasurementError
from benchmarks.programs import RedisServer
from custom_runtime.active import CONTRACT
from local_seldon.ports import free_ports

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]
READY_S, STOP_S = 60.0, 30.0


class SoakWorld:
    """Redis and the service, ready when entered; `store.kill`, `store.pause` and `roll` are the faults."""

    def __init__(self, directory: Path, *, bundle: Path, workers: int) -> None:
        self._directory = directory
        self._workers = workers
        self.http_port, self.grpc_port, self._metrics_port = free_ports(3)
        files = ["--appendonly", "yes", "--appendfsync", "always"]
        self.store = RedisServer(*files)
        self._environment = os.environ | {
            "MLSERVER_HOST": HOST,
            "MLSERVER_HTTP_PORT": str(self.http_port),
            "MLSERVER_GRPC_PORT": str(self.grpc_port),
            "MLSERVER_METRICS_PORT": str(self._metrics_port),
            "SERVING_BUNDLE": str(bundle),
            "SERVING_FEATURE_STORE": self.store.url,
            "SERVING_DRAIN_DELAY_S": "3",
            "SERVING_GRPC_CONNECTION_AGE_S": "3",
            # A call that gRPC rejects because the machine was stopped for a moment looks like a lost one.
            "SERVING_GRPC_MAX_WAITING": "1000",
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._storing = threading.Lock()  # an end during a start waits for it
        self._is_ended = False

    async def __aenter__(self) -> SoakWorld:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            await self.start_store()
            load = [sys.executable, "scripts/load_features.py", "--store", self.store.url]
            await asyncio.to_thread(subprocess.run, load, cwd=ROOT, check=True, capture_output=True)
            serve = ["scripts/serve.py", "--workers", str(self._workers)]
            self._server = self._start([sys.executable, *serve], "server.log", cwd=ROOT)
            await self._wait("the service", self._is_ready)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._end)

    async def start_store(self) -> None:
        """Start Redis; it reads the loaded rows from its file."""
        await asyncio.to_thread(self._start_store)

    def _start_store(self) -> None:
        with self._storing:
            if not self._is_ended:
                self.store.start()

    async def roll(self) -> None:
        """Replace every worker, and wait until that is done."""
        assert self._server is not None  # noqa: S101 (entered)
        old = set(self.workers())
        self._server.send_signal(signal.SIGHUP)
        await self._wait("the new workers", lambda: old.isdisjoint(self.workers()))

    def workers(self) -> list[int]:
        """Return the pids of the serving processes."""
        assert self._server is not None  # noqa: S101 (entered)
        pid = self._server.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def gauge(self, name: str) -> float:
        """Return a gauge of the service's metrics page, added up over its series."""
        with urllib.request.urlopen(f"http://{HOST}:{self._metrics_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)))

    def _start(self, command: list[str], log: str, *, cwd: Path) -> subprocess.Popen[bytes]:
        with (self._directory / log).open("ab") as output:
            try:
                return subprocess.Popen(
                    command, env=self._environment, cwd=cwd, stdout=output, stderr=subprocess.STDOUT
                )
            except FileNotFoundError as error:
                raise MeasurementError(f"{command[0]} is missing; install it: apt-get install redis-server") from error

    async def _wait(self, what: str, is_so: object) -> None:
        deadline_s = asyncio.get_running_loop().time() + READY_S
        while not await asyncio.to_thread(is_so):  # type: ignore[arg-type]
            if asyncio.get_running_loop().time() > deadline_s:
                raise MeasurementError(f"{what}: not within {READY_S:g} s; see {self._directory}/*.log")
            await asyncio.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            url = f"http://{HOST}:{self.http_port}/v2/models/{CONTRACT.name}/ready"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _end(self) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        with self._storing:
            self._is_ended = True
            self.store.close()
