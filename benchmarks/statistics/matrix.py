"""The matrix of worlds: how often a canary as good as stable is rolled back, and how soon a bad one is.

And the curve of power against robustness: the same worlds under other priors of how much pods differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from scipy.stats import binom

from benchmarks.statistics.worlds import FIRST_STEP, ROLLOUT, WINDOW_S, Stage, World, breaks, judge
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.rate_gates import Event

ICCS: Final = (0.0001, 0.0003, 0.001, 0.01)
PRIORS: Final = (0.01, 0.05, 0.1, 0.2, 0.4, 1.0)
FAULT: Final = 10.0
SEED: Final = 20_261_126
"""The seeds of all figures derive from it; those with which the settings were chosen were 1, 2 and 3."""
EVENTS: Final[tuple[Event, ...]] = ("errors", "slow")
OBJECTIVE: Final = 0.01
GOAL: Final = 0.05
FAULT_LIMIT_S: Final = 120.0
TODAY_REQUESTS: Final = 1904
"""Canary requests until 2 % errors against 1 % were found at 100 requests/s by the gates that counted requests."""


@dataclass(frozen=True)
class Cell:
    """One world of the matrix, in shares of the runs.

    An A/A rollout has errors and slow answers, which come about independently of each other in the way of the world.
    false: a gate rolled it back. relative: one that compares did so. broken: rolled back only because the canary's
    pods, as they were drawn, break the objective for good, which is right. fault_s, fault_s_90: seconds until a canary
    with ten times the rate is rolled back, median and 90th percentile; None where that many never were.
    """

    world: World
    runs: int
    false: float
    relative: float
    broken: float
    fault_s: float | None
    fault_s_90: float | None

    @property
    def failures(self) -> list[str]:
        """Say which promises do not hold in this world."""
        said = []
        # Some hundred runs are an estimate: what they contradict is a broken promise (one-sided, 5 %).
        if binom.sf(round(self.false * self.runs) - 1, self.runs, GOAL) < 0.05:
            said.append(f"{self.world}: {self.false:.1%} false rollbacks, at most {GOAL:.0%} are promised")
        if self.fault_s is None or self.fault_s > FAULT_LIMIT_S:
            said.append(f"{self.world}: {FAULT:g} times the errors are found in {self.fault_s} s (median)")
        return said


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


def seed_of(*parts: object) -> int:
    """Return a seed of its own for one measurement."""
    return SEED + zlib.crc32(repr(parts).encode())


def cell(world: World, *, config: GateConfig, runs: int, fault_runs: int, stages: Sequence[Stage] = ROLLOUT) -> Cell:
    """Simulate one world: `runs` A/A rollouts, and `fault_runs` first steps of a canary with ten times the errors.

    Where pods are cold the fault is one of slow answers: the errors of such pods are those of independent requests.
    """
    relative, false, rolled_back = (np.zeros(runs, bool) for _ in range(3))
    for event in EVENTS:
        # Cold pods are slow, and not wrong.
        given = replace(world, kind="independent") if (world.kind, event) == ("cold", "errors") else world
        seed = seed_of(world, event)
        outcome = judge(given, stages, config, runs=runs, seed=seed, event=event)
        relative |= outcome.relative
        false |= outcome.relative | outcome.objective & ~breaks(given, runs, seed, OBJECTIVE)
        rolled_back |= outcome.rolled_back
    faulty = replace(world, factor=FAULT)
    fault: Event = "slow" if world.kind == "cold" else "errors"
    found = judge(faulty, (Stage(0.1, 60),), config, runs=fault_runs, seed=seed_of(faulty), event=fault)
    at_s = np.where(found.at > 0, found.at * WINDOW_S, np.inf)
    median, most = (float(np.quantile(at_s, share, method="higher")) for share in (0.5, 0.9))
    return Cell(
        world,
        runs,
        float(false.mean()),
        float(relative.mean()),
        float((rolled_back & ~false).mean()),
        median if np.isfinite(median) else None,
        most if np.isfinite(most) else None,
    )


@dataclass(frozen=True)
class Power:
    """Canary requests (median) until 2 % errors against 1 % are found at a tenth of the traffic; None: not in 20 min.

    all_gates: with the objective, which is at 1 %. relative: by the comparison with stable alone.
    """

    pods: int
    rps: int
    all_gates: float | None
    relative: float | None

    @property
    def failures(self) -> list[str]:
        """Say whether the promise does not hold: three times what it took the gates that counted requests."""
        if self.rps == 100 and (self.all_gates is None or self.all_gates > 3 * TODAY_REQUESTS):
            return [f"{self.pods}+{self.pods} pods: 1 % -> 2 % errors are found after {self.all_gates} requests"]
        return []


def power(pods: int, rps: int, config: GateConfig, *, runs: int) -> Power:
    """Measure the power with independent requests."""
    world = World("independent", pods=pods, rps=rps, base=0.01, factor=2.0)
    found = []
    for objective in (True, False):
        seed = seed_of(world, objective)
        outcome = judge(world, FIRST_STEP, config, runs=runs, seed=seed, objective=objective)
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
    """Measure one choice on the curve of power against robustness. All choices see the same worlds."""
    config = replace(GateConfig(), pods_differ=pods_differ)
    false = max(
        float(judge(world, ROLLOUT, config, runs=runs, seed=seed_of(world), objective=False).relative.mean())
        for world in (World("pods", 0.001), World("pods", 0.01))
    )
    stages, fewer = (Stage(0.1, 60),), max(50, runs // 4)
    found = {}
    for pods in (2, 3, 10):
        world = World("independent", pods=pods, factor=3.0)
        outcome = judge(world, stages, config, runs=fewer, seed=seed_of(world), objective=False)
        found[pods] = float(outcome.relative.mean())
    return Point(pods_differ, false, found)


@dataclass(frozen=True)
class Figures:
    """All that docs/statistics.md shows."""

    cells: list[Cell]
    powers: list[Power]
    points: list[Point]

    @property
    def failures(self) -> list[str]:
        """Say which promises do not hold; empty: all do."""
        return [said for cell in self.cells for said in cell.failures] + [
            said for power in self.powers for said in power.failures
        ]


def measure(*, runs: int, fault_runs: int, done: Callable[[int, int], None] = lambda at, of: None) -> Figures:
    """Simulate everything on two cores. done: receives how many measurements have ended, and of how many."""
    config, sizes = GateConfig(), [(2, 100), (2, 1000), (10, 100), (10, 1000)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        cells = [pool.submit(cell, world, config=config, runs=runs, fault_runs=fault_runs) for world in worlds()]
        powers = [pool.submit(power, pods, rps, config, runs=fault_runs) for pods, rps in sizes]
        points = [pool.submit(point, pods_differ, runs=runs) for pods_differ in PRIORS]
        everything: list[Future[Any]] = [*cells, *powers, *points]
        for index, one in enumerate(everything, start=1):
            one.result()
            done(index, len(everything))
        return Figures(
            [one.result() for one in cells], [one.result() for one in powers], [one.result() for one in points]
        )
