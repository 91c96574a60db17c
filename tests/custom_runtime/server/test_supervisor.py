"""The supervisor against workers that die, hang and roll: small programs, real processes, real sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_seldon.ports import free_ports
from tests.support.programs import GUARD_S, ROOT, eventually

SUPERVISE = """
import sys
from custom_runtime.server import supervisor
supervisor.SETTLED_S = float(sys.argv[3])
command = [sys.executable, "tests/support/worker_program.py", sys.argv[1]]
sys.exit(supervisor.supervise(command, workers=int(sys.argv[2])))
"""


class Supervised:
    """A supervisor with its workers' directory, log and port."""

    def __init__(self, directory: Path, *, workers: int, settled_s: float) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.port, metrics = free_ports(2)
        ports = {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(self.port),
            "MLSERVER_METRICS_PORT": str(metrics),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISE, str(directory), str(workers), str(settled_s)],
                cwd=ROOT,
                env=os.environ | ports | {"MLSERVER_HOST": "127.0.0.1", "SERVING_DRAIN_DELAY_S": "0"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        """Kill everything. The workers first: they are nobody's children once the supervisor is gone."""
        if self.process.poll() is None:
            for child in self.children():
                os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.wait()

    def children(self) -> set[int]:
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def ready(self) -> set[int]:
        return {pid for pid in self.children() if (self.directory / f"{pid}.ready").exists()}

    def ask(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), timeout=GUARD_S) as connection:
            return int(connection.recv(16))

    def said(self, event: str) -> int:
        return self.log.read_text().count(f'"{event}"')


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    running = Supervised(tmp_path, workers=2, settled_s=0.0)
    eventually(lambda: len(running.ready()) == 2, what="two workers")
    yield running
    running.end()


def test_a_worker_that_is_killed_during_a_roll_is_replaced_once(supervised: Supervised) -> None:
    old = supervised.ready()
    (supervised.directory / "slow").touch()
    supervised.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(supervised.children()) == 3, what="the replacement's process")
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not old & supervised.children(), what="the end of the old workers")
    (supervised.directory / "slow").unlink()
    eventually(lambda: len(supervised.ready()) == 2 == len(supervised.children()), what="two workers")
    eventually(lambda: supervised.said("worker_rolled") == 2, what="the whole roll")
    assert len(supervised.children()) == len(supervised.ready()) == 2
    assert not old & supervised.ready()


def test_a_replacement_that_dies_stops_the_roll_and_the_next_one_works(supervised: Supervised) -> None:
    old = supervised.ready()
    (supervised.directory / "fail").touch()
    supervised.process.send_signal(signal.SIGHUP)
    eventually(lambda: supervised.said("roll_stopped") == 1, what="the roll's end")
    assert supervised.ready() == old
    (supervised.directory / "fail").unlink()
    supervised.process.send_signal(signal.SIGHUP)
    eventually(lambda: not old & supervised.children() and len(supervised.ready()) == 2, what="a roll")


def test_sigterm_during_the_start_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    starting = Supervised(tmp_path, workers=2, settled_s=0.0)
    try:
        eventually(lambda: len(starting.children()) == 2, what="two processes")
        starting.process.terminate()
        assert starting.process.wait(GUARD_S) == 0
    finally:
        starting.end()


def test_a_worker_that_crashes_at_its_start_keeps_no_connection_waiting(tmp_path: Path) -> None:
    running = Supervised(tmp_path, workers=2, settled_s=3600.0)
    try:
        eventually(lambda: len(running.ready()) == 2, what="two workers")
        survivor, victim = sorted(running.ready())
        (tmp_path / "fail").touch()
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: running.said("worker_died") >= 1, what="the death")
        answered = Counter(running.ask() for _ in range(30))
        assert answered == {survivor: 30}
        (tmp_path / "fail").unlink()
        eventually(lambda: len(running.ready()) == 2, what="its replacement")
        eventually(lambda: len({running.ask() for _ in range(30)}) == 2, what="answers of both")
    finally:
        running.end()


def test_the_delay_grows_while_a_worker_dies_at_each_start(tmp_path: Path) -> None:
    running = Supervised(tmp_path, workers=1, settled_s=3600.0)
    try:
        eventually(lambda: len(running.ready()) == 1, what="a worker")
        (tmp_path / "fail").touch()
        os.kill(next(iter(running.ready())), signal.SIGKILL)
        eventually(lambda: running.said("worker_died") >= 4, what="four deaths")
        for delay_s in ("0.1", "0.2", "0.4", "0.8"):
            assert f'"restart_in_s": {delay_s}' in running.log.read_text()
    finally:
        running.end()
