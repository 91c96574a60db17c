"""A hook that runs a command beside the promoter, and the load test as such a command."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Ended, Positive, Subject

POLL_S: Final = 0.05
GRACE_S: Final = 2.0
MOST_WORDS: Final = 300
ALLOWED_ENV: Final = "ROLLOUT_COMMANDS"
HOLDS: Final = 3
"""The exit code that asks for patience, as a held rollout's."""
COMMAND: Final = {0: Verdict.PASS, HOLDS: Verdict.INCONCLUSIVE}
LOAD_TEST: Final = {0: Verdict.PASS, 2: Verdict.ERROR, HOLDS: Verdict.INCONCLUSIVE}
"""2: wrong usage; 3: nothing was measured. Neither says anything about the canary."""


class CommandHook(Check):
    """Runs a command, without a shell. Exit code 0 passes, 3 holds (it is run again), any other fails.

    A command that cannot be started or takes longer than `timeout_s` holds. It gets the rollout's values in its words
    ($canary) and as environment variables (ROLLOUT_CANARY). The last line of its output is the reason. The plan is in
    an annotation that others may edit, so the process that drives the rollout must allow commands (ALLOWED_ENV).
    """

    kind: Literal["command"] = "command"
    command: Annotated[tuple[str, ...], Field(min_length=1)]

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Run it once."""
        if os.environ.get(ALLOWED_ENV) != "allowed":
            return self.result(Verdict.ERROR, f"commands are not allowed here: set {ALLOWED_ENV}=allowed")
        words = [subject.fill(word) for word in self.command]
        return self.result(*run(words, _environment(subject), self.timeout_s, ended))

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        command = shlex.join(self.command)
        return (f"`{command}` ends with an exit code other than 0 and {HOLDS}", f"`{command}` ends with 0")


class LoadTest(Check):
    """Runs `churn-serving load-test` against the canary alone, past the weights; passes when it says PASSED.

    An address that cannot be reached, or that refuses the first request, is no measurement, so it holds: callers reach
    the canary through the mesh, which the gates judge, and not through this address.
    """

    kind: Literal["load_test"] = "load_test"
    name: Annotated[str, Field(min_length=1, max_length=60)] = "load test"
    timeout_s: Positive = 120.0
    url: str = "$canary_url"
    protocol: Literal["predict", "v2-rest"] = "predict"
    qps: Positive = 100.0
    duration_s: Positive = 10.0
    bound_ms: Positive = 50.0
    keys: str = "1-7043"
    headers: Mapping[str, str] = Field(default_factory=dict)

    def ask(self, subject: Subject, ended: Ended) -> tuple[GateResult, ...]:
        """Run it once."""
        if not (url := subject.fill(self.url)):
            return self.result(Verdict.ERROR, "the canary's own address is not known; set `url`")
        headers = {**subject.canary_headers, **{name: subject.fill(value) for name, value in self.headers.items()}}
        words = [sys.executable, "-m", "commands.main", "load-test", "--url", url, "--protocol", self.protocol]
        words += ["--qps", f"{self.qps:g}", "--duration", f"{self.duration_s:g}", "--bound-ms", f"{self.bound_ms:g}"]
        words += ["--keys", self.keys, "--no-plot", "-o", "json"]
        for name, value in headers.items():
            words += ["--header", f"{name}: {value}"]
        return self.result(*run(words, _environment(subject), self.timeout_s, ended, verdicts=LOAD_TEST, errors=True))

    def describe(self) -> tuple[str, str]:
        """Return when it fails and when it passes, as text."""
        load = f"{self.qps:g} requests/s for {self.duration_s:g} s"
        return (f"P99 exceeds {self.bound_ms:g} ms at {load}", f"P99 is within {self.bound_ms:g} ms at {load}")


def run(
    words: list[str],
    env: Mapping[str, str],
    timeout_s: float,
    ended: Ended,
    *,
    verdicts: Mapping[int, Verdict] = COMMAND,
    errors: bool = False,
) -> tuple[Verdict, str]:
    """Run a command in its own process group, which ends with it.

    verdicts: of exit codes; any other code fails. errors: the reason is on standard error.
    """
    deadline_s = time.monotonic() + timeout_s
    with tempfile.TemporaryFile() as output:  # a pipe would block a command that says a lot
        kept, other = (subprocess.DEVNULL, output) if errors else (output, subprocess.STDOUT)
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=kept, stderr=other, env=env, start_new_session=True
            )
        except OSError as error:
            return Verdict.INCONCLUSIVE, f"`{words[0]}` cannot be started: {error.strerror or error}"
        try:
            while process.poll() is None:
                if ended():
                    return Verdict.INCONCLUSIVE, "stopped, because the step has ended"
                if time.monotonic() >= deadline_s:
                    return Verdict.INCONCLUSIVE, f"`{words[0]}` had not ended after {timeout_s:g} s (timeout_s)"
                time.sleep(POLL_S)
        finally:
            _end(process)
        output.seek(0)
        said = output.read()[-4 * MOST_WORDS :].decode(errors="replace").strip().rpartition("\n")[2][-MOST_WORDS:]
    code = process.returncode
    verdict = verdicts.get(code, Verdict.FAIL)
    return verdict, f"{said} (exit code {code})" if said else f"exit code {code}"


def _environment(subject: Subject) -> dict[str, str]:
    return {**os.environ, **{f"ROLLOUT_{name.upper()}": value for name, value in subject.words().items()}}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
