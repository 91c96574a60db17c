"""Simulated rollouts in which pods and minutes differ: many worlds at once, judged by the code that judges a real one.

Each world says how one event (errors, or slow answers) comes about in pods of two versions. Base rate 0.3 %, windows of
10 s, traffic split evenly over a version's pods. The intraclass correlation (icc) is the share of a request's variance
that comes from its pod: pod rates follow a beta distribution with variance icc * p * (1 - p).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rollout.analysis.clusters import Clusters, prior
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.rate_gates import Event

Array = NDArray[np.float64]
Kind = Literal["independent", "pods", "noise", "pauses", "cold"]
WINDOW_S = 10.0
BASE = 0.003
PAUSE_S = (0.2, 0.5)
COLD_EXTRA, COLD_DECAY_S = 0.05, 15.0


@dataclass(frozen=True)
class World:
    """How requests go wrong. factor: the canary's rate over stable's, 1 in an A/A rollout.

    pods: rates drawn once per pod. noise: drawn anew per pod and window. pauses: a pod stands still for 0.2 to 0.5 s,
    as often as makes all of the base rate. cold: a canary pod is 5 % worse when it starts, decaying with 15 s.
    """

    kind: Kind
    icc: float = 0.0
    pods: int = 2
    rps: int = 1000
    base: float = BASE
    factor: float = 1.0

    def __str__(self) -> str:
        """Name it with its size."""
        return f"{self.name}, {self.pods}+{self.pods} pods, {self.rps:,}/s"

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        return {
            "independent": "independent requests",
            "pods": f"pods differ for good, icc {self.icc:g}",
            "noise": f"noise per pod and 10 s, icc {self.icc:g}",
            "pauses": "whole-pod pauses of 0.2-0.5 s",
            "cold": "cold canary pods",
        }[self.kind]


@dataclass(frozen=True)
class Stage:
    """A weight of the canary (a share), and how many windows it lasts."""

    share: float
    windows: int


ROLLOUT = (Stage(0.1, 30), Stage(0.3, 30), Stage(0.5, 30), Stage(1.0, 30))
FIRST_STEP = (Stage(0.1, 120),)


def windows(
    world: World, stages: Sequence[Stage], runs: int, seed: int
) -> Iterator[tuple[bool, float, tuple[Array, Array], tuple[Array, Array]]]:
    """Yield for each window: whether a step begins, the canary's share, requests and events (canary's, stable's)."""
    rng = np.random.default_rng(seed)
    shape = (runs, world.pods)
    means = world.base * world.factor, world.base
    fixed = [_beta(rng, np.full(shape, mean), world.icc if world.kind == "pods" else 0.0) for mean in means]
    at_s = 0.0
    for stage in stages:
        for index in range(stage.windows):
            requests, events = [], []
            for arm, share in enumerate((stage.share, 1 - stage.share)):
                n = rng.poisson(world.rps * WINDOW_S * share / world.pods, shape)
                rate = _rates(world, rng, fixed[arm], means[arm], at_s if arm == 0 else np.inf)
                requests.append(n.astype(np.float64))
                events.append(rng.binomial(n, rate).astype(np.float64))
            at_s += WINDOW_S
            yield index == 0, stage.share, (requests[0], requests[1]), (events[0], events[1])


def breaks(world: World, runs: int, seed: int, limit: float) -> NDArray[np.bool_]:
    """Say in which runs the canary's pods, as they were drawn, have a rate above a limit for good."""
    icc = world.icc if world.kind == "pods" else 0.0
    rates = _beta(np.random.default_rng(seed), np.full((runs, world.pods), world.base * world.factor), icc)
    return np.asarray(rates.mean(axis=1) > limit)


def _beta(rng: np.random.Generator, mean: Array, icc: float) -> Array:
    if not icc:
        return mean
    size = (1 - icc) / icc
    return np.asarray(rng.beta(mean * size, (1 - mean) * size))


def _rates(world: World, rng: np.random.Generator, rate: Array, mean: float, age_s: float) -> Array:
    if world.kind == "noise":
        return _beta(rng, rate, world.icc)
    if world.kind == "pauses":
        # The nuisance makes the base rate; a fault comes on top, in every request alike.
        pauses = rng.poisson(world.base / np.mean(PAUSE_S) * WINDOW_S, rate.shape)
        stalled_s = sum(np.where(pauses > nth, rng.uniform(*PAUSE_S, rate.shape), 0.0) for nth in range(8))
        return np.asarray(np.clip(stalled_s / WINDOW_S + mean - world.base, 0, 1))
    if world.kind == "cold" and np.isfinite(age_s):
        shape = COLD_DECAY_S / WINDOW_S * (1 - np.exp(-WINDOW_S / COLD_DECAY_S))
        return np.asarray(np.clip(rate + COLD_EXTRA * np.exp(-age_s / COLD_DECAY_S) * shape, 0, 1))
    return rate


@dataclass(frozen=True)
class Outcome:
    """What became of the runs. relative, objective: which gate rolled back, and `at` which window (0: none did).

    requests: the canary's until then, infinity where none did.
    """

    relative: NDArray[np.bool_]
    objective: NDArray[np.bool_]
    at: NDArray[np.int64]
    requests: Array

    @property
    def rolled_back(self) -> NDArray[np.bool_]:
        """Whether any gate did."""
        return self.relative | self.objective


def judge(
    world: World,
    stages: Sequence[Stage],
    config: GateConfig,
    *,
    runs: int,
    seed: int = 1,
    event: Event = "errors",
    objective: bool = True,
) -> Outcome:
    """Roll out in `runs` worlds at once, with the relative gate and the objective of one event."""
    gate, slo = (config.errors, config.slo_errors) if event == "errors" else (config.latency, config.slo_latency)
    if gate is None or slo is None:
        raise ValueError(f"the gates on {event} are off, and nothing would judge")
    weights = prior(config.pods_differ)
    state = Clusters.none((runs, world.pods), (runs, world.pods))
    relative, absolute = np.zeros(runs, bool), np.zeros(runs, bool)
    at, requests, total = np.zeros(runs, np.int64), np.full(runs, np.inf), np.zeros(runs)
    warm_from = int(config.warm_up_s / WINDOW_S) if event in config.warm_up else 0
    for index, (begins, share, n, x) in enumerate(windows(world, stages, runs, seed)):
        if begins:
            state = state.next_step()
        total += n[0].sum(axis=1)
        if index < warm_from:
            continue
        state = state.window(n, x)
        open_runs = ~(relative | absolute)
        found = state.above(slo.limit, wanted=slo.log_alarm(config.alpha)) & open_runs & objective
        absolute |= found
        if share < 1:
            wanted = gate.log_alarm(config.alpha)
            worse = state.worse(weights, margin=gate.margin, floor=gate.floor, gross=gate.gross, wanted=wanted)
            relative |= worse & open_runs & ~found
        new = open_runs & (relative | absolute)
        at[new], requests[new] = index + 1, total[new]
    return Outcome(relative, absolute, at, requests)
