"""churn-serving rollout as people and pipelines use it: exit codes, output, signals, two processes at once."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from commands.main import app
from rollout.engine.session import Session
from rollout.engine.state import Command
from rollout.errors import LeaseLost
from tests.support.programs import GUARD_S, eventually
from tests.support.targets.cluster import Cluster, clustered

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts/canary_promote.py"
QUICK = "--interval 0.1 --min-duration 0.2 --max-duration 600 --bake 0.2 --lease 1"
EXAMPLES = ["run", "start", "resume", "status", "plan", "pause", "promote", "abort", "undo"]


@pytest.fixture(autouse=True)
def logging_of_the_next_test() -> Iterator[None]:
    """The script sends this process's log to standard error as it was during the command: a file closed by now."""
    yield
    structlog.reset_defaults()


class Shell:
    """The command line, in this process (`run`) or in one of its own (`begin`)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._begun: list[subprocess.Popen[str]] = []

    def run(self, line: str) -> Result:
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["rollout", *shlex.split(line)])

    def begin(self, line: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(SCRIPT), *shlex.split(line)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._begun.append(process)
        return process

    def close(self) -> None:
        """End what a test that failed has left."""
        for process in self._begun:
            if process.poll() is None:
                process.kill()
                process.communicate()

    @property
    def rollout(self) -> str:
        return f"run churn --version v8 --image churn:8 --evidence prometheus={self.cluster.prometheus} {QUICK} -o json"

    @property
    def resume(self) -> str:
        return f"resume churn --evidence prometheus={self.cluster.prometheus} --lease 1 -o json"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    with clustered(tmp_path) as cluster, closing(Shell(cluster)) as shell:
        yield shell


def printed(done: Result) -> dict[str, object]:
    facts: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def test_a_healthy_version_is_promoted_with_exit_code_0_a_log_and_a_report(shell: Shell) -> None:
    done = shell.run(shell.rollout)
    assert done.exit_code == 0, done.stdout + done.stderr
    facts = printed(done)
    assert (facts["phase"], facts["weights_percent"]) == ("Succeeded", {"v8": 100})
    assert shell.cluster.target.read().mesh_weights == {"v8": 100}
    log = Path.cwd() / str(facts["log"])
    steps = [json.loads(line)["weights_percent"].get("v8") for line in log.read_text().splitlines()]
    # A first line at 0 % is there only if the canary's pods were not ready when the rollout was first looked at.
    assert sorted(set(steps) - {0}) == [10, 30, 50, 100]
    assert (Path.cwd() / str(facts["report"])).exists()
    reasons = {
        event.raw["reason"] for (kind, _, _), event in shell.cluster.api.objects.items() if kind.plural == "events"
    }
    assert {"WeightsRaised", "Baking", "Baked", "Promoted"} <= reasons
    assert [line for line in done.stderr.splitlines() if "WeightsRaised" in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_the_first_patch_and_the_driving_holds_the_rollout_and_says_how_to_go_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    begin = Session.begin

    def begin_and_be_interrupted(session: Session, prepare: Any) -> Any:
        state = begin(session, prepare)
        signal.raise_signal(number)
        return state

    monkeypatch.setattr(Session, "begin", begin_and_be_interrupted)
    done = shell.run(shell.rollout.removesuffix(" -o json"))
    assert done.exit_code == 3, done.stdout + done.stderr
    namespace = shell.cluster.target.read().deployment.namespace
    assert f"go on with `churn-serving rollout resume churn -n {namespace}`" in done.stdout


def test_a_bad_version_is_rolled_back_with_exit_code_1(shell: Shell) -> None:
    shell.cluster.traffic.errors["v8"] = 0.2
    done = shell.run(shell.rollout)
    assert done.exit_code == 1, done.stdout + done.stderr
    facts = printed(done)
    assert (facts["phase"], facts["rollback_stage"]) == ("RolledBack", "weights")
    assert "errors" in str(facts["message"])
    assert [one.name for one in shell.cluster.target.read().deployment.predictors] == ["v7"]


def test_without_evidence_the_rollout_is_held_with_exit_code_3(shell: Shell) -> None:
    config = Path.cwd() / "rollout.yaml"
    config.write_text("metric_grace_s: 0.3\nwatch_held_s: 0.2\n")
    shell.cluster.traffic.down = True
    done = shell.run(f"{shell.rollout} --config {config}")
    assert done.exit_code == 3, done.stdout + done.stderr
    assert printed(done)["reason"] == "EvidenceLost"
    shell.cluster.until({"v7": 90, "v8": 10})
    assert shell.run("status churn -o json").exit_code == 3


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("run churn", 2, "Missing option '--version'"),
        ("run churn --version v8", 2, "brings nothing new"),
        ("run churn --version v7 --image churn:8 --dry-run", 2, "is the predictor that serves now"),
        ("run churn --version v8 --image churn:8 --evidence nowhere", 2, "allowed: prometheus=http://HOST:PORT"),
        ("run churn --version v8 --image churn:8 --steps 50,10", 2, "growing weights"),
        ("run churn --version v8 --image churn:8 --steps ten", 2, "such as 10,30,50,100"),
        ("run churn --version v8 --env X --dry-run", 2, "NAME=VALUE"),
        ("run other --version v8 --image churn:8 --dry-run", 4, "not found (404"),
        ("resume churn --evidence prometheus=http://127.0.0.1:9", 4, "has no rollout; begin one with `run`"),
        ("abort churn", 4, "has no rollout"),
        ("undo churn", 4, "remembers no earlier version"),
        ("plan --config nowhere.yaml", 2, "cannot be read"),
    ],
)
def test_what_makes_no_sense_ends_with_a_sentence_and_its_exit_code(
    shell: Shell, line: str, code: int, said: str
) -> None:
    done = shell.run(line)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_prints_a_patch_that_kubectl_would_take_and_changes_nothing(shell: Shell) -> None:
    before = shell.cluster.target.read().manifest["spec"]
    done = shell.run("start churn --version v8 --model-uri s3://models/8 --env A=b --dry-run -o json")
    assert done.exit_code == 0, done.stderr
    operations = json.loads(done.stdout)
    added = next(one["value"] for one in operations if one["path"] == "/spec/predictors/-")
    assert (added["name"], added["traffic"], added["graph"]["modelUri"]) == ("v8", 0, "s3://models/8")
    assert {"name": "A", "value": "b"} in added["componentSpecs"][0]["spec"]["containers"][0]["env"]
    assert operations[0]["op"] == "test"
    words = shell.run("start churn --version v8 --image churn:8 --dry-run")
    assert words.exit_code == 0, words.stderr
    assert "add predictor v8 at 0 %, image churn:8" in words.stdout
    assert "schema" not in words.stdout
    assert shell.cluster.target.read().manifest["spec"] == before


def test_start_then_status_then_resume_then_undo(shell: Shell) -> None:
    assert shell.run(f"start churn --version v8 --image churn:8 {QUICK} -o json").exit_code == 0
    status = shell.run("status churn -o json")
    assert (status.exit_code, printed(status)["phase"]) == (0, "Pending")
    assert {"gates", "pods", "next", "driven"} <= set(printed(status))
    screen = shell.run("status churn")
    assert screen.exit_code == 0, screen.stdout + screen.stderr
    assert "churn-serving rollout resume churn" in screen.stdout
    assert shell.run(shell.resume).exit_code == 0
    undone = shell.run("undo churn --lease 1 -o json")
    assert undone.exit_code == 0, undone.stdout + undone.stderr
    assert [one.name for one in shell.cluster.target.read().deployment.predictors] == ["v7"]


def test_a_manual_gate_is_opened_from_another_process(shell: Shell) -> None:
    running = shell.begin(f"{shell.rollout} --manual 30")
    shell.cluster.until({"v7": 70, "v8": 30})
    eventually(lambda: printed(shell.run("status churn -o json"))["reason"], lambda reason: reason == "ManualGate")
    promoted = shell.run("promote churn")
    assert promoted.exit_code == 0
    assert "acts on `promote` at its next look" in promoted.stdout
    output, _ = running.communicate(timeout=GUARD_S)
    assert running.returncode == 0, output


def test_abort_reaches_the_promoter_at_work(shell: Shell) -> None:
    running = shell.begin(f"{shell.rollout} --manual 10")
    shell.cluster.until({"v7": 90, "v8": 10})
    done = shell.run("abort churn --lease 1")
    assert done.exit_code in (0, 1), done.stdout + done.stderr
    output, _ = running.communicate(timeout=GUARD_S)
    assert running.returncode in (1, 4), output  # 4: the other process took over
    shell.cluster.until({"v7": 100})  # v8 is at 0 % before it goes


def test_abort_says_how_it_ended_when_the_promoter_at_work_carries_it_out_first(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = shell.begin(f"{shell.rollout} --manual 10")
    shell.cluster.until({"v7": 90, "v8": 10})
    send = Session.send

    def send_late(session: Session, command: Command) -> None:
        send(session, command)
        output, _ = running.communicate(timeout=GUARD_S)
        assert running.returncode == 1, output

    monkeypatch.setattr(Session, "send", send_late)
    done = shell.run("abort churn -o json")
    assert done.exit_code == 1, done.stdout + done.stderr
    assert printed(done)["phase"] == "RolledBack"


def test_abort_says_how_it_ended_when_the_promoter_at_work_ends_it_in_between(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = shell.begin(f"{shell.rollout} --manual 10")
    shell.cluster.until({"v7": 90, "v8": 10})

    def lose(*arguments: object, **options: object) -> None:
        output, _ = running.communicate(timeout=GUARD_S)
        assert running.returncode == 1, output
        raise LeaseLost("another promoter ended this rollout")

    monkeypatch.setattr("rollout.cli.driving.drive", lose)
    done = shell.run("abort churn -o json")
    assert done.exit_code == 1, done.stdout + done.stderr
    assert printed(done)["phase"] == "RolledBack"


@pytest.mark.parametrize(
    ("number", "on_sigterm", "code", "weights"),
    [
        (signal.SIGTERM, "hold", 3, {"v7": 70, "v8": 30}),
        (signal.SIGTERM, "rollback", 1, {"v7": 100}),
        pytest.param(signal.SIGINT, "hold", 3, {"v7": 70, "v8": 30}, marks=pytest.mark.slow),
    ],
)
def test_5_sigterm_and_ctrl_c_hold_or_roll_back_as_configured(
    shell: Shell, number: signal.Signals, on_sigterm: str, code: int, weights: dict[str, int]
) -> None:
    running = shell.begin(f"{shell.rollout} --manual 30 --on-sigterm {on_sigterm}")
    shell.cluster.until({"v7": 70, "v8": 30})
    running.send_signal(number)
    output, _ = running.communicate(timeout=GUARD_S)
    assert (running.returncode, "Traceback" in output) == (code, False), output
    shell.cluster.until(weights)
    if on_sigterm == "hold":
        assert shell.run("promote churn").exit_code == 0
        assert shell.run(shell.resume).exit_code == 0


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [(403, "promoter-role.yaml", 4), (401, "renew the credentials", 4)],
)
def test_22_what_the_api_refuses_is_said_in_words(shell: Shell, status: int, said: str, code: int) -> None:
    shell.cluster.api.fault = lambda method, plural, name: (status, "no") if plural == "seldondeployments" else None
    shell.cluster.operator.paused = True
    done = shell.run("run churn --version v8 --image churn:8 --evidence prometheus=http://127.0.0.1:9")
    shell.cluster.operator.error = None
    assert (done.exit_code, said in done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_ends_in_an_example_that_the_command_line_understands(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    runner = CliRunner(env={"COLUMNS": "200"})
    shown = runner.invoke(app, ["rollout", command, "--help"]).stdout
    _, _, example = shown.partition("Example:\n    churn-serving ")
    assert example, shown
    done = runner.invoke(app, shlex.split(example.replace("\\\n", "")))
    assert done.exit_code == (0 if command == "plan" else 4), done.output  # 4: no cluster here, but no usage error
