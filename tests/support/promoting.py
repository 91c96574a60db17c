"""Promoters as processes of their own, for tests that kill them: `promoting.py KUBECONFIG PROMETHEUS_URL`.

Imports once, then forks a promoter for each line of standard input; prints its pid, and its exit code when it ended.
"""

from __future__ import annotations

import os
import sys

from rollout.engine.record import Record
from rollout.engine.session import Session
from rollout.engine.state import RolloutState
from rollout.evidence.prometheus import PrometheusSource
from rollout.targets.kubernetes import KubernetesTarget
from rollout.targets.kubernetes_connection import Connection


class Silence:
    """A subscriber that ignores all records."""

    def notify(self, record: Record, state: RolloutState) -> None:
        """Ignore the record."""


def resume(prometheus: str) -> int:
    """Drive the rollout of `churn` to its end; 0 for promoted, 1 for rolled back."""
    session = Session(KubernetesTarget("churn", Connection(timeout_s=60)), lease_s=1)
    outcome = session.drive(PrometheusSource(prometheus), Silence(), stop=lambda: False)
    return {"Succeeded": 0, "RolledBack": 1}.get(outcome.state.phase.value, 4)


if __name__ == "__main__":
    os.environ["KUBECONFIG"], url = sys.argv[1:]
    for _ in sys.stdin:
        if (pid := os.fork()) == 0:
            os._exit(resume(url))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
