"""Processes that a command has left behind, found by a directory or a network that only they know."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.programs import ROOT

# A shell starts what runs in its background with SIGINT ignored, `nohup` with SIGHUP, and these tests with them.
FROM_A_TERMINAL = ("env", "--default-signal=INT,HUP")


@contextmanager
def begun(command: Sequence[str], directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command as a terminal would, its output in `directory / "output"`; kill what is left of it in the end."""
    with (directory / "output").open("w") as output:
        process = subprocess.Popen(
            [*FROM_A_TERMINAL, *command],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            for pid in (process.pid, *processes_of(directory)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def processes_of(directory: Path) -> dict[int, str]:
    """Return the command lines, by pid, of the processes that name a directory in their arguments or environment."""
    wanted = os.fsencode(directory)
    return _others(lambda entry: wanted in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes())


def _others(is_wanted: Callable[[Path], bool]) -> dict[int, str]:
    """Return the command lines, by pid, of the other processes whose directory in /proc is wanted."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with suppress(FileNotFoundError, PermissionError, ProcessLookupError):
            if is_wanted(entry):
                arguments = (entry / "cmdline").read_bytes()
                found[int(entry.name)] = arguments.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def end_all_in_network(within_s: float = 30.0) -> list[str]:
    """End the other processes of this network namespace, but for the parent that made it; return their commands."""
    network, parent = os.readlink("/proc/self/ns/net"), str(os.getppid())

    def others() -> dict[int, str]:
        return _others(lambda entry: entry.name != parent and os.readlink(entry / "ns/net") == network)

    left = others()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in others():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline_s = time.monotonic() + within_s
        while others() and time.monotonic() < deadline_s:
            time.sleep(0.05)
    return list(left.values())


def descendants(pid: int) -> list[int]:
    """Return the pids of a process's children and of theirs."""
    try:
        children = [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [found for child in children for found in (child, *descendants(child))]
