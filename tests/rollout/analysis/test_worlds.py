"""The promises of the gates, held by simulation: how often they are wrong, and how soon they see what is wrong.

Seeds are fixed, so a figure changes only with the code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from scipy import stats

from benchmarks.statistics.matrix import measure, power
from benchmarks.statistics.worlds import Stage, World, breaks, judge, windows
from rollout.analysis.clusters import Clusters
from rollout.analysis.counts import LATENCY_BUCKETS, SCORE_BINS, SLO_BUCKET, Arm, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import GATES_JSON, GateState, update
from rollout.analysis.verdict import Verdict, combine

SHORT = (Stage(0.1, 12), Stage(0.3, 12), Stage(0.5, 12))
HARD = [
    World("independent"),
    World("pods", 0.001),
    World("pods", 0.01),
    World("noise", 0.01),
    World("pauses"),
    World("cold"),
    World("pods", 0.001, rps=100),
]
SCORES = np.diff(stats.beta(1.2, 3).cdf(np.linspace(0, 1, SCORE_BINS + 1)))


@pytest.mark.parametrize("world", HARD, ids=lambda world: f"{world.name}, {world.rps}/s")
def test_a_canary_as_good_as_stable_is_seldom_rolled_back(world: World) -> None:
    event: Literal["errors", "slow"] = "slow" if world.kind == "cold" else "errors"
    outcome = judge(world, SHORT, GateConfig(), runs=80, seed=1, event=event)
    broken = breaks(world, 80, 1, 0.01)
    assert (outcome.relative | outcome.objective & ~broken).mean() <= 0.05
    assert not (outcome.objective & ~broken).any()


@pytest.mark.parametrize("world", HARD[:-1], ids=lambda world: world.name)
def test_ten_times_the_errors_are_found_within_a_minute(world: World) -> None:
    outcome = judge(replace(world, factor=10.0), (Stage(0.1, 6),), GateConfig(), runs=40)
    assert outcome.rolled_back.mean() > 0.5


def test_a_tenth_of_the_traffic_shows_twice_the_errors_soon() -> None:
    """1 % to 2 % at 100 requests/s took the gates that counted requests 1,904 canary requests."""
    found = power(2, 100, GateConfig(), runs=40)
    assert found.all_gates is not None
    assert found.all_gates <= 3 * 1904


def test_with_ten_pods_the_comparison_alone_shows_it_as_well() -> None:
    found = power(10, 100, GateConfig(), runs=20)
    assert found.relative is not None
    assert found.relative <= 3 * 1904


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_the_whole_matrix() -> None:
    assert measure(runs=300, fault_runs=60).failures == []


def test_the_simulation_and_a_real_rollout_have_the_same_evidence() -> None:
    """The gates keep pods by name and as JSON; the simulation keeps arrays of many worlds. Both must be one method."""
    world, runs = World("pods", 0.001, pods=3, rps=300), 2
    batch, state = Clusters.none((runs, 3), (runs, 3)), GateState()
    for begins, _, requests, events in windows(world, (Stage(0.1, 4), Stage(0.5, 4)), runs, seed=5):
        if begins:
            batch, state = batch.next_step(), GATES_JSON.validate_json(GATES_JSON.dump_json(state.next_step()))
        batch = batch.window(requests, events)
        canary, stable = (
            Arm(
                {
                    f"pod-{pod}": Counts(requests=int(n), errors=int(x))
                    for pod, (n, x) in enumerate(zip(requests[arm][1], events[arm][1], strict=True))
                }
            )
            for arm in (0, 1)
        )
        state, _ = update(GateConfig(), state, stable, canary)
        errors = state.clusters["errors"]
        np.testing.assert_allclose(errors.canary, batch.canary[1])
        np.testing.assert_allclose(errors.stable, batch.stable[1])
        np.testing.assert_allclose(errors.correlation, batch.correlation[1])
        assert (errors.windows, errors.epoch_windows) == (batch.windows, batch.epoch_windows)


def test_at_the_edge_of_the_null_the_comparison_keeps_alpha() -> None:
    """The canary is exactly `margin` times as bad, in pods that are alike, and is looked at a hundred times."""
    world = World("independent", pods=10, rps=400, base=0.02, factor=1.1)
    outcome = judge(world, (Stage(0.3, 100),), GateConfig(), runs=100, objective=False)
    assert outcome.relative.mean() <= 0.05


def window(rng: np.random.Generator, requests: int, errors: float) -> Arm:
    failed, slow = int(rng.binomial(requests, errors)), int(rng.binomial(requests, 0.005))
    latency = [0] * LATENCY_BUCKETS
    latency[3], latency[SLO_BUCKET] = requests - slow, slow
    scores = rng.multinomial(requests - failed, SCORES).tolist()
    return Arm.of(Counts.of_latency(latency, errors=failed, scores=scores))


def test_a_canary_twice_as_bad_seldom_passes_its_step() -> None:
    """The reverse bet's own promise, at the edge of what it excludes and with a look after each window."""
    config, rng, runs, passed = GateConfig(drift=None, warm_up_s=0.0), np.random.default_rng(22), 40, 0
    for _ in range(runs):
        state = GateState()
        for _ in range(8):
            mine = int(rng.binomial(2000, 0.1))
            state, results = update(config, state, window(rng, 2000 - mine, 0.005), window(rng, mine, 0.0101))
            if combine(results) is Verdict.PASS:
                passed += 1
                break
    assert passed <= 2 * config.pass_alpha * runs


def test_a_fixed_sample_test_asked_as_often_breaks_its_promise() -> None:
    """Why evidence is weighed: Fisher's exact test at 5 %, asked after each of forty windows, is wrong too often."""
    rng, false = np.random.default_rng(20), 0
    for _ in range(100):
        totals = np.zeros((2, 2), int)
        for _ in range(40):
            totals += [[errors := int(rng.binomial(1000, 0.004)), 1000 - errors] for _ in range(2)]
            if stats.fisher_exact(totals, alternative="greater").pvalue < 0.05:
                false += 1
                break
    assert false > 10
