"""The matrix of worlds: how often a canary as good as stable is rolled back, and how soon a bad one is.

And the curve of power against robustness: the same worlds under other priors of how much pods differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from benchmarks.statistics.worlds import FIRST_STEP, ROLLOUT, WINDOW_S, Stage, World, judge
from rollout.analysis.gate_config import GateConfig

ICCS: Final = (0.0001, 0.0003, 0.001, 0.01)
PRIORS: Final = (0.01, 0.05, 0.1, 0.2, 0.4, 1.0)
FAULT: Final = 10.0


@dataclass(frozen=True)
class Cell:
    """One world of the matrix, shares of runs and medians.

    relative, objective: A/A rollouts that each kind of gate rolled back. fault_s, fault_s_90: seconds until a canary
    with ten times the rate is rolled back, median and 90th percentile; None where that many never were.
    """

    world: World
    runs: int
    relative: float
    objective: float
    fault_s: float | None
    fault_s_90: float | None

    @property
    def rolled_back(self) -> float:
        """All false rollbacks: the objective's count where pods truly break it too."""
        return self.relative + self.objective


def worlds(pods: Sequence[int] = (2, 10), rates: Sequence[int] = (100, 1000)) -> Iterator[World]:
    """Yield every world of the matrix."""
    for count in pods:
        for rps in rates:
            yield World("independent", pods=count, rps=rps)
            for icc in ICCS:
                yield World("pods", icc, pods=count, rps=rps)
            yield World("noise", 0.01, pods=count, rps=rps)
            yield World("pauses", pods=count, rps=rps)
            yield World("cold", pods=count, rps=rps)


def cell(world: World, *, config: GateConfig, runs: int, fault_runs: int, stages: Sequence[Stage] = ROLLOUT) -> Cell:
    """Simulate one world: `runs` A/A rollouts, and `fault_runs` first steps of a canary with ten times the rate."""
    # Cold pods are slow; a fault is one of errors, since that is what a version brings.
    event: Literal["errors", "slow"] = "slow" if world.kind == "cold" else "errors"
    healthy = judge(world, stages, config, runs=runs, event=event)
    faulty = judge(replace(world, factor=FAULT), (Stage(0.1, 60),), config, runs=fault_runs, seed=2)
    at_s = np.where(faulty.at > 0, faulty.at * WINDOW_S, np.inf)
    median, most = (float(np.quantile(at_s, share, method="higher")) for share in (0.5, 0.9))
    return Cell(
        world,
        runs,
        float(healthy.relative.mean()),
        float(healthy.objective.mean()),
        median if np.isfinite(median) else None,
        most if np.isfinite(most) else None,
    )


@dataclass(frozen=True)
class Power:
    """Canary requests (median) until 2 % errors against 1 % are found at a tenth of the traffic; None: not in an hour.

    all_gates: with the objective, which is at 1 %. relative: by the comparison with stable alone.
    """

    pods: int
    rps: int
    all_gates: float | None
    relative: float | None


def power(pods: int, rps: int, config: GateConfig, *, runs: int) -> Power:
    """Measure the power with independent requests."""
    world = World("independent", pods=pods, rps=rps, base=0.01, factor=2.0)
    found = []
    for objective in (True, False):
        outcome = judge(world, FIRST_STEP, config, runs=runs, seed=3, objective=objective)
        median = float(np.median(outcome.requests))
        found.append(median if np.isfinite(median) else None)
    return Power(pods, rps, found[0], found[1])


@dataclass(frozen=True)
class Point:
    """One choice of `pods_differ`. false: A/A rollouts rolled back by the comparison, in the worst world of 2+2 pods.

    threefold: the share of canaries with three times the errors (0.3 % to 0.9 %, below the objective) that the
    comparison finds within ten minutes at 1,000 requests/s, by the number of pods.
    """

    pods_differ: float
    false: float
    threefold: dict[int, float]


def point(pods_differ: float, *, runs: int) -> Point:
    """Measure one choice on the curve of power against robustness."""
    config = replace(GateConfig(), pods_differ=pods_differ)
    false = max(
        float(judge(World("pods", icc), ROLLOUT, config, runs=runs, objective=False).relative.mean())
        for icc in (0.001, 0.01)
    )
    stages, fewer = (Stage(0.1, 60),), max(50, runs // 4)
    found = {
        pods: float(
            judge(
                World("independent", pods=pods, factor=3.0), stages, config, runs=fewer, objective=False
            ).relative.mean()
        )
        for pods in (2, 3, 10)
    }
    return Point(pods_differ, false, found)
