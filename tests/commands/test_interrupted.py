"""Ctrl-C ends a command with one line and no traceback; colours go to terminals only, and not with NO_COLOR set."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answering import answering, ok
from tests.support.leftovers import FROM_A_TERMINAL
from tests.support.programs import GUARD_S, ROOT, eventually

PROGRAM = str(Path(sys.executable).parent / "churn-serving")
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


@contextlib.contextmanager
def load_test(output: int) -> Iterator[subprocess.Popen[str]]:
    """Run a load test of a minute that has sent its first request; output: where its two streams go."""
    asked = threading.Event()

    def answer(number: int) -> bytes:
        asked.set()
        return ok()

    with answering(answer) as port:
        url = f"http://127.0.0.1:{port}"
        process = subprocess.Popen(
            [*FROM_A_TERMINAL, PROGRAM, "load-test", "--url", url, "--qps", "50", "--duration", "60", "--no-plot"],
            cwd=ROOT, stdout=output, stderr=output, text=True, start_new_session=True,
        )  # fmt: skip
        assert asked.wait(GUARD_S), "no request came"
        yield process


def test_an_interrupted_load_test_says_so_in_one_line() -> None:
    with load_test(subprocess.PIPE) as process:
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=GUARD_S)
    assert (process.returncode, out, err.split()) == (130, "", ["interrupted"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_load_test_that_is_ended_by_another_signal_ends_what_it_started(number: signal.Signals) -> None:
    with load_test(subprocess.PIPE) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=GUARD_S)
        group = process.pid
        # Python's own helper process ends when it notices that the command is gone.
        eventually(lambda: not is_running(group), what="a process of the load test's group is left")
    assert (process.returncode, out, err.split()) == (128 + number, "", ["interrupted"])


def test_a_killed_load_test_leaves_nothing_that_sends_requests() -> None:
    with load_test(subprocess.DEVNULL) as process:
        process.kill()
        process.wait(GUARD_S)
        group = process.pid
        eventually(lambda: not is_running(group), what="a process of the killed load test's group is left")


def is_running(group: int) -> bool:
    """Whether a process of the group is left, zombies aside, which wait for init to collect them."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = entry.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                return True
    return False


# A command that prints in red: nothing listens there.
REFUSED = ("load-test", "--url", "http://127.0.0.1:9", "--no-plot")


def on_a_terminal(*command: str, **environment: str) -> bytes:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    given = {**plain, "TERM": "xterm", **environment}
    process = subprocess.Popen([PROGRAM, *command], cwd=ROOT, stdout=theirs, stderr=theirs, env=given)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed: the command has ended
        while chunk := os.read(ours, 65_536):
            said += chunk
    os.close(ours)
    process.wait(GUARD_S)
    return said


def test_colours_are_for_terminals_and_no_color_is_honoured() -> None:
    assert COLOUR.search(on_a_terminal(*REFUSED))
    assert not COLOUR.search(on_a_terminal(*REFUSED, NO_COLOR="1"))
    piped = subprocess.run([PROGRAM, *REFUSED], cwd=ROOT, capture_output=True, check=False)
    assert piped.returncode == 3
    assert not COLOUR.search(piped.stdout + piped.stderr)


def test_ctrl_c_while_the_server_is_imported_is_no_traceback() -> None:
    """It ends as SIGTERM ends it then; a shell shows 130."""
    code = (
        "import os, signal, sys, time\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'custom_runtime.server.process':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from custom_runtime.server.command import main\n"
        "main([])\n"
    )
    done = subprocess.run(
        [*FROM_A_TERMINAL, sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, timeout=GUARD_S
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
