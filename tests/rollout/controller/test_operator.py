"""The controller as a process: kopf watches an API server over HTTP, and a rollout that nobody else drives ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollout.controller.operator import recorded
from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.engine.state import STATE, Phase, RolloutState, encode
from rollout.plan.plan import Plan, Step
from rollout.targets.kubernetes_connection import Connection
from rollout.targets.kubernetes_lease import CONTROLLER, KubernetesLease
from tests.support.programs import GUARD_S, eventually
from tests.support.targets.cluster import Cluster, clustered

STEPS = (Step(50, 0.5, 60, 0), Step(100, 0.5, 60, 0))
PLAN = Plan(steps=STEPS, interval_s=0.3, analyse=False, rollback_deadline_s=10)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with clustered(tmp_path) as cluster:
        yield cluster


@contextmanager
def controller(cluster: Cluster, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a controller until the end of the block, if it is not killed before; it must end by itself after SIGTERM."""
    command = [
        sys.executable, "-m", "commands.main", "rollout", "controller", "-n", "models", "--lease", "1",
        "--evidence", f"prometheus={cluster.prometheus}", "--log", str(log.parent / "logs"), "--port", "0",
    ]  # fmt: skip
    with log.open("a") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}, stdout=output, stderr=output
        )
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(GUARD_S) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait(GUARD_S)


def begin(cluster: Cluster, plan: Plan = PLAN) -> Session:
    session = Session(cluster.target, lease_s=1)
    session.begin(lambda: session.prepare(Release("v8", image="churn:8"), plan))
    return session


def ended(session: Session, log: Path) -> RolloutState:
    last = eventually(session.last, lambda found: found is not None and found.phase.over, what=log.read_text()[-3000:])
    assert last is not None
    return last


def state(**changes: object) -> RolloutState:
    return RolloutState("id", PLAN, "v7", "v8", nonce="a.1").but(**changes)


@pytest.mark.parametrize(
    ("annotations", "phase"),
    [
        ({}, None),
        ({STATE: "{"}, None),
        ({STATE: encode(state())}, Phase.PENDING),
        ({STATE: encode(state(phase=Phase.SUCCEEDED, step=1))}, Phase.SUCCEEDED),
    ],
)
def test_the_watch_knows_a_rollout_by_its_record(annotations: dict[str, str], phase: Phase | None) -> None:
    found = recorded("models", "churn", annotations)
    assert (found.phase if found else None) is phase


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_rollout_that_was_only_started_is_promoted_by_the_controller(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "controller.log"
    session = begin(cluster)
    with controller(cluster, log):
        assert ended(session, log).phase is Phase.SUCCEEDED
        cluster.until({"v8": 100})
        eventually(session.driver, lambda holder: not holder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kill_9_and_an_outage_of_the_api_server_only_delay_the_rollout(cluster: Cluster, tmp_path: Path) -> None:
    """Killed at 50 %; the next controller starts during an outage, and meets a second one while it drives."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    steps = (Step(50, 4.0, 60, 0), Step(100, 0.5, 60, 0))
    session = begin(cluster, Plan(steps=steps, interval_s=0.3, analyse=False, rollback_deadline_s=10))

    def outage(sign: str) -> None:
        """Answer 503 to everything until the controller's log has a new line with the sign."""
        known = len(second.read_text())
        cluster.api.fault = lambda method, plural, name: (503, "out of order")
        eventually(lambda: sign in second.read_text()[known:], every_s=0.1)
        cluster.api.fault = lambda method, plural, name: None

    with controller(cluster, first) as process:
        cluster.until({"v7": 50, "v8": 50})
        process.kill()
        process.wait(GUARD_S)
    cluster.api.fault = lambda method, plural, name: (503, "out of order")
    second.touch()
    with controller(cluster, second):
        outage("cannot_watch")
        eventually(session.driver)
        outage("out of order")
        assert ended(session, second).phase is Phase.SUCCEEDED
        cluster.until({"v8": 100})
        cluster.api.end_watches("machinelearning.seldon.io/v1/seldondeployments")
        session.begin(lambda: session.prepare(Release("v9", image="churn:9"), PLAN))
        cluster.until({"v9": 100})


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_run_follows_a_controller_and_its_own_end_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The pipeline is cancelled at 50 %; the rollout goes on, and a second `run` follows another one to its end."""
    log = tmp_path / "controller.log"

    def run(version: str, steps: str) -> subprocess.Popen[str]:
        command = [
            sys.executable, "-m", "commands.main", "rollout", "run", "churn", "--version", version,
            "--image", "churn:9", "--steps", steps, "--interval", "0.3",
            "--min-duration", "2", "--bake", "0.2", "--min-requests", "1",
            "--evidence", "prometheus=http://127.0.0.1:9", "-o", "json", "--log", str(tmp_path / "own"),
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    with controller(cluster, log):
        session = Session(cluster.target, presence=KubernetesLease(CONTROLLER, Connection(namespace="models")))
        eventually(session.controller)
        first = run("v8", "50,100")
        cluster.until({"v7": 50, "v8": 50})
        first.send_signal(signal.SIGTERM)
        said, _ = first.communicate(timeout=GUARD_S)
        assert "the rollout goes on, driven by controller@" in said
        assert ended(session, log).phase is Phase.SUCCEEDED
        second = run("v9", "100")
        said, _ = second.communicate(timeout=GUARD_S)
        assert second.returncode == 0, said
        assert '"phase": "Succeeded"' in said
        assert not (tmp_path / "own").exists()  # it drove nothing, so it has no log of its own
        cluster.until({"v9": 100})
