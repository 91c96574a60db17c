"""Real serving processes for tests: started on free ports, waited for, and ended."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from local_seldon.ports import free_ports
from tests.support.programs import GUARD_S, ROOT, is_listening

# With the defaults, a machine that stands still for a moment answers 503 or 504, which says nothing of what is tested.
PATIENT = {
    "SERVING_STORE_TIMEOUT_MS": "60000",
    "SERVING_DEADLINE_MS": "60000",
    "SERVING_BATCH_DEADLINE_MS": "60000",
    "SERVING_MAX_QUEUE_MS": "60000",
}


@dataclass(frozen=True)
class World:
    """What a server needs: an imported bundle, a loaded store, the registry it came from, and the stock models."""

    root: Path

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.root / 'features.db'}"

    @property
    def registry(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def stock(self) -> Path:
        return self.root / "project" / "var" / "stock"

    @property
    def model_settings(self) -> Path:
        """A copy of model-settings/, because the stock models lie beside it in var/."""
        return self.root / "project" / "model-settings"

    @property
    def expected(self) -> Path:
        """ids [n], rows [n, WIDTH], and the registered models' own probabilities: champion [n], challenger [n]."""
        return self.root / "expected.npz"

    @property
    def environment(self) -> dict[str, str]:
        return {"SERVING_BUNDLE": str(self.bundle), "SERVING_FEATURE_STORE": self.store, "SERVING_DRAIN_DELAY_S": "0"}


@dataclass(frozen=True)
class Server:
    """A running server process."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    metrics_path: str
    log: Path
    start_s: float

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}{self.metrics_path}"

    def samples(self, name: str, **labels: str) -> float:
        """Sum the samples of a metric that carry the labels."""
        text = httpx.get(self.metrics).text
        total = 0.0
        for line in text.splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total += float(match[2])
        return total


@contextmanager
def serving(
    environment: Mapping[str, str],
    log: Path,
    *,
    command: Sequence[str] = ("scripts/serve.py",),
    model: str = "churn",
    metrics_path: str = "/metrics",
    ready: bool = True,
    patient: bool = True,
) -> Iterator[Server]:
    """Run a server until the block ends; ready: wait for its model and ports. It must end after SIGTERM.

    patient: its time limits are longer than any delay of the machine; False: they are the defaults, for tests of them.
    """
    http_port, grpc_port, metrics_port = free_ports(3)
    ports = {
        "MLSERVER_HTTP_PORT": str(http_port),
        "MLSERVER_GRPC_PORT": str(grpc_port),
        "MLSERVER_METRICS_PORT": str(metrics_port),
        "MLSERVER_HOST": "127.0.0.1",
    }
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **(PATIENT if patient else {}), **ports, **environment},
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, http_port, grpc_port, metrics_port, metrics_path, log, 0.0)
    try:
        if ready:
            wait_until_ready(server, model)
        yield Server(process, http_port, grpc_port, metrics_port, metrics_path, log, time.monotonic() - started)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(GUARD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the server did not end by itself:\n{log.read_text()}") from None


def wait_until_ready(server: Server, model: str = "churn", limit_s: float = GUARD_S) -> None:
    """Wait until the model is ready and every port answers: REST may do so a moment before gRPC and the metrics."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with {server.process.returncode}:\n{server.log.read_text()}")
        try:
            answer = httpx.get(f"{server.rest}/v2/models/{model}/ready", timeout=1)
            if answer.status_code == 200 and is_listening(server.grpc_port) and is_listening(server.metrics_port):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the server was not ready after {limit_s:g} s:\n{server.log.read_text()}")


def assert_refuses_to_start(environment: dict[str, str], message: str) -> None:
    ports = dict(
        zip(("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT"), map(str, free_ports(3)), strict=True)
    )
    done = subprocess.run(
        [sys.executable, "scripts/serve.py"],
        cwd=ROOT, env=os.environ | environment | ports, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("churn-serving cannot start: ")]
    assert len(lines) == 1, done.stderr
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in done.stderr


def children(pid: int) -> list[int]:
    """Return the worker processes of a supervisor."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if b"custom_runtime.server" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def cpu_s(server: Server) -> float:
    """Return the processor time that the server's process has used."""
    user, system = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory_mb(server: Server, field: str = "VmRSS") -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) // 1024
