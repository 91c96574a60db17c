"""The controller in a cluster: kopf watches an API server over HTTP, and a rollout that nobody else drives ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.controller.operator import under_way
from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.engine.state import STATE, Phase, RolloutState, encode
from rollout.plan.plan import Plan, Step
from tests.support.programs import eventually
from tests.support.targets.cluster import clustered

PLAN = Plan(steps=(Step(50, 0.5, 60, 0), Step(100, 0.5, 60, 0)), interval_s=0.3, analyse=False, rollback_deadline_s=10)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, False),
        ({STATE: "{"}, False),
        ({STATE: encode(RolloutState("id", PLAN, "v7", "v8", nonce="a.1"))}, True),
        ({STATE: encode(RolloutState("id", PLAN, "v7", "v8", phase=Phase.SUCCEEDED, step=1, nonce="a.1"))}, False),
    ],
)
def test_only_a_rollout_under_way_gets_a_driver(annotations: dict[str, str], expected: bool) -> None:
    assert under_way(annotations) is expected


def test_a_rollout_that_was_only_started_is_promoted_by_the_controller(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        session = Session(cluster.target, lease_s=2)
        controller = subprocess.Popen(
            [sys.executable, "-m", "commands.main", "rollout", "controller", "-n", "models", "--lease", "2",
             "--evidence", f"prometheus={cluster.prometheus}"],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            stdout=(tmp_path / "out").open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            session.begin(lambda: session.prepare(Release("v8", image="churn:8"), PLAN))
            last = eventually(session.last, lambda found: found is not None and found.phase.over, within_s=90)
            assert last is not None
            assert last.phase is Phase.SUCCEEDED, (tmp_path / "out").read_text()[-3000:]
            cluster.until({"v8": 100})
        finally:
            controller.send_signal(signal.SIGTERM)
            assert controller.wait(30) in (0, -signal.SIGTERM)
