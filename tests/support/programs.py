"""Real programs for tests: located, started on free loopback ports, and ended with the test."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from benchmarks import programs
from benchmarks.programs import is_listening
from local_seldon.ports import free_ports

__all__ = ["free_ports", "is_listening"]

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
# Ends a wait that would never end. It asserts nothing about speed: what is waited for takes a small part of it on the
# slowest machine, and a test that passes never waits so long. pytest's own timeout (pyproject.toml) is longer.
GUARD_S = 300.0


def program(name: str, *, package: str | None = None) -> str:
    """Return the path of an installed program; without it the test is skipped here, and fails where CI=true."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed; install it with: apt-get install --no-install-recommends {package or name}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    return free_ports(1)[0]


def eventually(
    ask: Callable[[], T],
    wanted: Callable[[T], object] = bool,
    *,
    within_s: float = GUARD_S,
    every_s: float = 0.01,
    what: str = "no such answer",
) -> T:
    """Ask until the answer is the wanted one, any true one if nothing else is said, and return it.

    Fails the test when that does not come in time; the last answer is in the failure.
    """
    deadline_s = time.monotonic() + within_s
    while not wanted(answer := ask()):
        assert time.monotonic() < deadline_s, f"{what}: not within {within_s:g} s; last: {answer!r}"
        time.sleep(every_s)
    return answer


class RedisServer(programs.RedisServer):
    """The benchmarks' redis-server; without the program the test is skipped here, and fails where CI=true."""

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program("redis-server")
        super().start()


@contextmanager
def redis_server(*arguments: str) -> Iterator[str]:
    """Run a redis-server of the test's own; yields its URL."""
    with RedisServer(*arguments) as server:
        yield server.url


@contextmanager
def redis_cluster() -> Iterator[list[RedisServer]]:
    """Run three primaries on loopback, joined by redis-cli as an operator would."""
    redis_cli = program("redis-cli", package="redis-tools")
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    servers = [RedisServer(*options, "--cluster-port", str(bus)) for bus in free_ports(3)]
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        create = [redis_cli, "--cluster", "create", *addresses, "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=GUARD_S)
        for server in servers:
            info = [redis_cli, "-p", str(server.port), "cluster", "info"]

            def is_whole(info: list[str] = info) -> bool:
                return b"cluster_state:ok" in subprocess.run(info, check=False, capture_output=True).stdout

            eventually(is_whole, what="the cluster is whole")
        yield servers
