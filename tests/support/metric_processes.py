"""Real processes behind the evidence: exporters of its metrics, a Prometheus, and a server that misbehaves."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from rollout.analysis.counts import Arm, Counts
from rollout.evidence.source import Source
from tests.support.programs import GUARD_S, eventually, free_port, program

until = partial(eventually, every_s=0.05)  # Prometheus needs this time
EXPORTER = Path(__file__).parent / "metric_exporter.py"


def counts_when(source: Source, predictor: str, wanted: Callable[[Counts], bool]) -> Counts:
    return until(lambda: source.sample([predictor]).arms.get(predictor, Arm()).total, wanted)


class Exporter:
    """One pod: a process that exports the service's metrics and may be killed and started again on its port."""

    def __init__(self, predictor: str, port: int = 0) -> None:
        self.predictor, self.port = predictor, port
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/metrics"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(EXPORTER), str(self.port), self.predictor],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = int(self._answer())

    def count(self, times: int = 1, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"times": times, **order}) + "\n")
        self._process.stdin.flush()
        assert self._answer() == "counted"

    def kill(self) -> None:
        if self._process.returncode is not None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def restart(self) -> None:
        self.kill()
        self.start()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class Prometheus:
    """A real Prometheus that scrapes twice a second whatever listens on its ports; two jobs scrape the last one.

    The ports are fixed, since Prometheus takes 5 s to notice a change of its targets; each is held until it is taken.
    beside: another one, whose ports are scraped by this one too. containers: the port of kube-state-metrics.
    """

    def __init__(
        self,
        directory: Path,
        ports: int = 0,
        *,
        beside: Prometheus | None = None,
        containers: int = 0,
        interval: str = "500ms",
    ) -> None:
        self._held = {one.getsockname()[1]: one for one in (bound() for _ in range(ports))}
        self.ports: list[int] = [*beside.ports] if beside else [*self._held]
        *self.free, self.doubled = self.ports
        pods = [{"targets": [f"127.0.0.1:{port}"], "labels": {"pod": f"pod-{port}"}} for port in self.ports]
        config = directory / "prometheus.yml"
        jobs = {"pods": pods, "again": pods[-1:]}
        if containers:
            jobs["kube-state-metrics"] = [{"targets": [f"127.0.0.1:{containers}"], "labels": {}}]
        config.write_text(
            json.dumps(
                {
                    # A scrape that is late counts as a pod that is gone.
                    "global": {"scrape_interval": interval, "scrape_timeout": "500ms"},
                    "scrape_configs": [
                        {"job_name": job, "static_configs": targets, "honor_labels": job == "kube-state-metrics"}
                        for job, targets in jobs.items()
                    ],
                }
            )
        )
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [
                program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        until(self._is_ready)

    def take(self) -> int:
        """A port for a pod of the test's own."""
        port = self.free.pop()
        self._held.pop(port).close()
        return port

    def ask(self, query: str) -> float:
        """The value of a query whose answer is one number; 0 without any."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()["data"]["result"]
        return float(answer[0]["value"][1]) if answer else 0.0

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(GUARD_S)
        self._log.close()
        for held in self._held.values():
            held.close()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "prometheus has ended"
        try:
            return httpx.get(f"{self.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False


def bound() -> socket.socket:
    """A socket that keeps its port from others, and does not listen."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held


@contextmanager
def misbehaving(answers: Sequence[bytes | Callable[[socket.socket], None] | None]) -> Iterator[str]:
    """A socket server that answers each connection with the next bytes or by a function; None does not answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve() -> None:
        for answer in answers:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if answer is None:
                held.append(connection)
                continue
            with connection:
                connection.recv(65_536)
                if callable(answer):
                    answer(connection)
                    continue
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(GUARD_S)
        for connection in held:
            connection.close()


def drip(connection: socket.socket) -> None:
    """Answer a byte every 10 ms until the caller disconnects: each read is fast, but the answer never ends."""
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            connection.sendall(b"#")
            time.sleep(0.01)
    except OSError:
        return


def reply(body: str | bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """One HTTP answer as bytes."""
    content = body.encode() if isinstance(body, str) else body
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}\r\n".encode() + content
    )
