"""Ports of this machine.

What the kernel says of running processes (/proc).

A Redis of the benchmark's own: on the client's core, on a free port, without persistence.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import MeasurementError

HOST = "127.0.0.1"
# Below those that the kernel gives to whoever asks for any port (32768 and up), and those of local_seldon (15000 and
# up): they would take a port between choosing and binding it.
FIRST, LAST = 10_000, 14_999
# Who is given a TCP port binds it seconds later. Until then its UDP twin, which nobody uses, keeps the other callers of
# this function off it, in other processes too; this many are kept, as files of this process.
KEPT = 64
_kept: deque[int] = deque()
START_TIMEOUT_S = 10.0
POLL_S = 0.02


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on, and that no other caller of this function was given just now."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(FIRST, LAST)  # noqa: S311 (spread, not secrecy)
        with socket.socket(type=socket.SOCK_DGRAM) as twin:
            try:
                twin.bind((HOST, port))
                socket.create_server((HOST, port)).close()
            except OSError:
                continue
            _kept.append(twin.detach())
        ports.append(port)
        if len(_kept) > KEPT:
            os.close(_kept.popleft())
    return ports


def session_members(session: int) -> list[int]:
    """Return the pids of a session: its leader, and what that started."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if os.getsid(int(entry.name)) == session:
                    members.append(int(entry.name))
            except ProcessLookupError:
                continue
    return members


def resident_kb(pid: int) -> int:
    """Return a process's resident memory in units of 1024 bytes; 0: it is gone, or only starts."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


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
