"""Programs of this machine for benchmarks and tests: what /proc says of processes, a Redis server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from benchmarks.errors import MeasurementError
from local_seldon.ports import HOST, free_ports

START_TIMEOUT_S = 30.0
POLL_S = 0.02


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
    """Return a process's resident memory in units of 1024 bytes; 0: it has ended, or is only starting."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def start_uninterrupted(process: BaseProcess) -> None:
    """Start a process that never gets Ctrl-C, not even while it imports its modules: who started it ends it."""
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class RedisServer:
    """A redis-server on a free loopback port, without files unless the arguments say otherwise.

    It can be killed, paused and started again. arguments: the server's own, which win over the defaults. cpu: the core
    that it is pinned to.
    """

    def __init__(self, *arguments: str, port: int | None = None, scheme: str = "redis", cpu: int | None = None) -> None:
        self.port = port or free_ports(1)[0]
        self.url = f"{scheme}://{HOST}:{self.port}"
        self._arguments = arguments
        self._pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        self._directory = TemporaryDirectory(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start it, and wait until it listens. Raises MeasurementError when it does not."""
        defaults = ["--bind", HOST, "--save", "", "--appendonly", "no", "--dir", self._directory.name]
        port = [] if "--tls-port" in self._arguments else ["--port", str(self.port)]
        command = [*self._pinned, "redis-server", *defaults, *port, *self._arguments]
        log = Path(self._directory.name) / "log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            except FileNotFoundError as error:
                raise MeasurementError(
                    f"{command[0]} is missing; install it: apt-get install redis-server util-linux"
                ) from error
        self._process = process
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not is_listening(self.port):
            if process.poll() is not None:
                raise MeasurementError(f"redis-server ended: {log.read_text(errors='replace').strip()[-2000:]}")
            if time.monotonic() > deadline_s:
                raise MeasurementError(f"redis-server did not listen in {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it at once (SIGKILL), paused or not; `start` starts it again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Stop it without closing its connections (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and delete its directory."""
        self.kill()
        self._directory.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None  # noqa: S101 (only a started server is asked)
        self._process.send_signal(number)


def is_listening(port: int) -> bool:
    """Return whether somebody accepts connections on the loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0
