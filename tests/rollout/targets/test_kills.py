"""Real processes, really killed, against an API server over HTTP."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rollout.engine.observation import same_weights
from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.engine.state import Phase, RolloutState, read_state
from rollout.plan.plan import Plan, Step
from tests.support import promoting
from tests.support.targets.cluster import Cluster, clustered

KILLS = 10
STEPS = tuple(Step(weight, min_duration_s=0.6, max_duration_s=60) for weight in (10, 30, 50, 100))
PLAN = Plan(steps=STEPS, interval_s=0.1, rollback_deadline_s=5.0)


class Promoters:
    """Starts one promoter after the other; `run` returns its exit code, -9 when it was killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *, kill_after_s: float) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        timer = threading.Timer(kill_after_s, _kill, (pid,))
        timer.start()
        code = int(self._process.stdout.readline())
        timer.cancel()
        return code


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.kill(pid, signal.SIGKILL)


@contextmanager
def promoters(cluster: Cluster) -> Iterator[Promoters]:
    command = [sys.executable, promoting.__file__, str(cluster.kubeconfig), cluster.prometheus]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Promoters(process)
        assert process.stdin
        process.stdin.close()


def state(cluster: Cluster) -> RolloutState:
    found = read_state(cluster.target.read().deployment.metadata.annotations)
    assert found
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("good", [True, False], ids=["healthy", "failing"])
def test_sigkill_at_random_moments_changes_neither_end_nor_sum_of_weights(tmp_path: Path, good: bool) -> None:
    """Ten kills each, 20 together; `clustered` checks the sums of all that was ever written."""
    moments = random.Random(20 + good)
    with clustered(tmp_path) as cluster, promoters(cluster) as promoter:
        session = Session(cluster.target, lease_s=1)
        session.begin(lambda: session.prepare(Release("v8", image="churn:8"), PLAN))
        for kill in range(KILLS):
            if not good and kill == KILLS // 2:
                cluster.traffic.errors["v8"] = 0.03
            assert promoter.run(kill_after_s=moments.uniform(1.0, 1.7)) in (0, 1, -signal.SIGKILL)
            assert sum(cluster.target.read().deployment.weights().values()) == 100
            if state(cluster).phase.over:
                break
        else:
            assert promoter.run(kill_after_s=300) == (0 if good else 1)
        assert state(cluster).phase is (Phase.SUCCEEDED if good else Phase.ROLLED_BACK), state(cluster).message
        assert same_weights(cluster.target.read().mesh_weights, {"v8" if good else "v7": 100})
        assert kill >= KILLS // 2
