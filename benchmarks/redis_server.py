"""A Redis of the benchmark's own: on the client's core, on a free port, without persistence."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import MeasurementError
from benchmarks.ports import free_ports

START_TIMEOUT_S = 10.0
POLL_S = 0.02


@contextmanager
def redis_server(log: Path, *, cpu: int) -> Iterator[str]:
    """Run one as long as the block runs, and return its URL. Raises MeasurementError when it does not start."""
    (port,) = free_ports(1)
    command = ["taskset", "-c", str(cpu), "redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
        except FileNotFoundError as error:
            raise MeasurementError("taskset is missing; install it: apt-get install util-linux") from error
    try:
        _wait(process, port, log)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            said = log.read_text().strip()[-300:]
            raise MeasurementError(f"redis-server did not start: {said}; install it: apt-get install redis-server")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(POLL_S)
    raise MeasurementError(f"redis-server did not listen in {START_TIMEOUT_S:g} s")
