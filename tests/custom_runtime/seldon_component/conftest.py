"""The component under the real wrapper, in an environment of its own: seldon-core wants Python 3.12 and NumPy 1.26."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

from local_seldon.ports import free_ports
from tests.support.programs import GUARD_S, ROOT, is_listening
from tests.support.serving import World

LOCK = ROOT / "requirements" / "seldon.txt"


@dataclass(frozen=True)
class Microservice:
    http_port: int
    grpc_port: int
    metrics_port: int
    python: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"


def python_3_12() -> str:
    if sys.version_info[:2] == (3, 12):
        return sys.executable
    named = [shutil.which("python3.12"), *map(str, Path.home().glob(".pyenv/versions/3.12.*/bin/python3.12"))]
    for candidate in filter(None, named):
        # A pyenv shim is there for versions that are not.
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    running = ".".join(map(str, sys.version_info[:2]))
    pytest.skip(
        f"seldon-core needs Python 3.12; this is {running}, and there is no python3.12: apt-get or pyenv install"
    )


@pytest.fixture(scope="session")
def environment_python() -> Path:
    """Return the interpreter of an environment that holds exactly the lock; it is made once."""
    interpreter = python_3_12()
    home = ROOT / "var" / "seldon-component"
    home.mkdir(parents=True, exist_ok=True)
    stamp = home / "lock.sha256"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    with FileLock(home / "filelock"):
        if not stamp.exists() or stamp.read_text() != wanted:
            uv = str(Path(sys.executable).parent / "uv")
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", interpreter, home / "venv"], check=True)
            subprocess.run(
                [uv, "pip", "sync", "--quiet", "--require-hashes", LOCK],
                check=True,
                env=os.environ | {"VIRTUAL_ENV": str(home / "venv")},
            )
            stamp.write_text(wanted)
    return home / "venv" / "bin" / "python"


@pytest.fixture(scope="session")
def microservice(
    environment_python: Path, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Microservice]:
    """Run `seldon-core-microservice` with the world's bundle and features."""
    http_port, grpc_port, metrics_port = free_ports(3)
    log = tmp_path_factory.mktemp("microservice") / "log"
    command = [
        str(environment_python.parent / "seldon-core-microservice"),
        "custom_runtime.seldon_component.TabularComponent",
        *("--service-type", "MODEL", "--http-port", str(http_port), "--grpc-port", str(grpc_port)),
        *("--metrics-port", str(metrics_port), "--threads", "8"),
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env=os.environ | world.environment | {"PYTHONPATH": str(ROOT)},
            cwd=log.parent,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Microservice(http_port, grpc_port, metrics_port, environment_python)
    try:
        _wait(running, process, log)
        yield running
    finally:
        # The wrapper leaves its gRPC process behind after SIGTERM.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(running: Microservice, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + GUARD_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            answer = httpx.get(f"{running.url}/health/status", timeout=GUARD_S)
            # gRPC and the metrics are processes of their own.
            if answer.status_code == 200 and is_listening(running.grpc_port) and is_listening(running.metrics_port):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())
