"""The promises of the gates, held by simulation: how often they are wrong, and how soon they see what is wrong.

Traffic is split at random, so the arms differ by chance only unless a world says otherwise. Seeds are fixed; the
figures are printed and kept as properties of the report (`pytest -rP`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rollout.analysis.counts import LATENCY_BUCKETS, SCORE_BINS, SLO_BUCKET, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import GateState, update
from rollout.analysis.sequential import Alarm, relative_null
from rollout.analysis.verdict import Verdict, combine

RECORD = Callable[[str, object], None]
SCORES = np.diff(stats.beta(1.2, 3).cdf(np.linspace(0, 1, SCORE_BINS + 1)))


@dataclasses.dataclass(frozen=True)
class Arm:
    """The true rates of one version."""

    errors: float = 0.004
    slow: float = 0.005
    rejected: float = 0.02

    def window(self, rng: np.random.Generator, requests: int, swing: float = 1.0) -> Counts:
        """Draw one window; `swing` is what the hour of the day does to both arms."""
        errors, slow, rejected = (
            int(count) for count in rng.binomial(requests, [swing * self.errors, swing * self.slow, self.rejected])
        )
        latency = [0] * LATENCY_BUCKETS
        latency[3], latency[SLO_BUCKET] = requests - slow, slow
        scored = max(0, requests - errors - rejected)
        return Counts.of_latency(
            latency, errors=errors, rejected=rejected, scores=rng.multinomial(scored, SCORES).tolist()
        )


def windows(
    rng: np.random.Generator, stable: Arm, canary: Arm, *, weight: float, requests: int, swing: float = 0.0
) -> Iterator[tuple[Counts, Counts]]:
    phase = rng.uniform(0, 2 * np.pi)
    for index in range(1_000_000):
        now = 1 + swing * np.sin(phase + index / 5)
        mine = int(rng.binomial(requests, weight))
        yield stable.window(rng, requests - mine, now), canary.window(rng, mine, now)


def rollout(rng: np.random.Generator, config: GateConfig, arm: Arm, swing: float) -> list[tuple[Verdict, list[str]]]:
    """Roll out a canary as good as stable: four steps, ten windows of 2,000 requests each, all gates asked after each.

    Returns each step's last verdict with the gates that failed.
    """
    ends: list[Any] = []
    state = GateState()
    for weight in (0.1, 0.3, 0.5, 1.0):
        state = state.next_step()
        world = windows(rng, arm, arm, weight=weight, requests=2000, swing=swing)
        for _ in range(10):
            state, results = update(config, state, *next(world), compare=weight < 1)
            if (verdict := combine(results)) is Verdict.FAIL:
                return [*ends, (verdict, [result.name for result in results if result.verdict is Verdict.FAIL])]
        ends.append((verdict, []))
    return ends


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("world", "arm", "swing", "passing"),
    [
        ("quiet", Arm(errors=0.0005, slow=0.002), 0.0, 0.9),
        ("busy, and swinging by 60 % during each step", Arm(errors=0.004, slow=0.005), 0.6, 0.0),
    ],
    ids=["quiet", "busy"],
)
def test_at_most_alpha_of_a_thousand_harmless_rollouts_fail(
    world: str, arm: Arm, swing: float, passing: float, record_property: RECORD
) -> None:
    config, rng = GateConfig(), np.random.default_rng(20)
    ends = [rollout(rng, config, arm, swing) for _ in range(1000)]
    failures = [gates for end in ends for verdict, gates in end if verdict is Verdict.FAIL]
    passed = sum(all(verdict is Verdict.PASS for verdict, _ in end) for end in ends)
    print(f"A/A ({world}): {len(failures)} of 1000 rollouts failed {failures}, {passed} passed in 4 x 20,000 requests")
    record_property("false_failures_of_1000", len(failures))
    assert len(failures) <= config.alpha * len(ends)
    assert passed >= passing * len(ends)  # a gate that never fails because it never says anything would be no gate


def test_a_fixed_sample_test_asked_as_often_breaks_its_promise() -> None:
    """Why the gates bet: Fisher's exact test at 5 %, asked after each of forty windows, is wrong far more often."""
    rng, arm, false = np.random.default_rng(20), Arm(), 0
    for _ in range(100):
        mine = theirs = Counts()
        world = windows(rng, arm, arm, weight=0.5, requests=2000)
        for _ in range(40):
            stable, canary = next(world)
            theirs, mine = theirs + stable, mine + canary
            table = [[mine.errors, mine.requests - mine.errors], [theirs.errors, theirs.requests - theirs.errors]]
            if stats.fisher_exact(table, alternative="greater").pvalue < 0.05:
                false += 1
                break
    assert false > 10


def test_at_the_edge_of_the_null_the_alarm_keeps_alpha_and_is_not_idle(record_property: RECORD) -> None:
    """The hardest case: the canary is exactly `margin` times as bad, looked at 200 times."""
    rng, alpha, runs, false = np.random.default_rng(23), 0.05, 2000, 0
    mine = rng.binomial(200, 0.05 * 1.1, size=(runs, 200))
    theirs = rng.binomial(1800, 0.05, size=(runs, 200))
    null = relative_null(200, 1800, 1.1)
    for hits, misses in zip(mine.tolist(), theirs.tolist(), strict=True):
        alarm = Alarm()
        for hit, miss in zip(hits, misses, strict=True):
            alarm = alarm.after(hit, miss, null, cap=-np.log(alpha) / 3)
            if alarm.evidence >= -np.log(alpha):
                false += 1
                break
    print(f"{false} of {runs} alarms at the edge of the null, {alpha:.0%} allowed")
    record_property("false_alarms_at_the_edge", false / runs)
    assert 0 < false <= alpha * runs


def requests_to_failure(
    config: GateConfig, stable: Arm, canary: Arm, *, runs: int, window: int, limit: int
) -> np.ndarray:
    """Requests of both arms until the failure, at 10 % traffic; `limit` where it was not seen."""
    rng, taken = np.random.default_rng(21), []
    for _ in range(runs):
        state, seen = GateState(), 0
        for arms in windows(rng, stable, canary, weight=0.1, requests=window):
            state, results = update(config, state, *arms)
            seen += window
            if combine(results) is Verdict.FAIL or seen >= limit:
                break
        taken.append(seen)
    return np.array(taken)


@pytest.mark.parametrize(
    ("name", "gate", "stable", "canary", "window", "median", "ninetieth"),
    [
        ("errors 1 % -> 2 %", "errors", Arm(errors=0.01), Arm(errors=0.02), 1000, 30_000, 60_000),
        ("errors 5 % -> 10 %", "errors", Arm(errors=0.05), Arm(errors=0.10), 500, 8_000, 14_000),
        ("60 ms on 3 % of requests", "latency", Arm(slow=0.002), Arm(slow=0.032), 200, 3_500, 5_000),
        ("always failing", "errors", Arm(errors=0.001), Arm(errors=1.0), 200, 1_000, 1_000),
    ],
)
def test_a_regression_at_a_tenth_of_the_traffic_is_caught_within_a_stated_number_of_requests(
    name: str, gate: str, stable: Arm, canary: Arm, window: int, median: int, ninetieth: int, record_property: RECORD
) -> None:
    config = GateConfig(
        **{other: None for other in GateConfig().gates if other != gate}  # type: ignore[arg-type]
    )
    taken = requests_to_failure(config, stable, canary, runs=100, window=window, limit=20 * median)
    half, most = np.quantile(taken, [0.5, 0.9])
    print(f"{name}: median {half:,.0f}, 90th percentile {most:,.0f} requests of both arms ({half / 10:,.0f} canary)")
    record_property(name, f"median {half:.0f}, p90 {most:.0f}")
    assert half <= median
    assert most <= ninetieth


def test_a_canary_twice_as_bad_seldom_passes_its_step(record_property: RECORD) -> None:
    """The reverse bet's own promise, at the edge of what it excludes and with a look after each window."""
    config, rng, runs, passed = GateConfig(drift=None), np.random.default_rng(22), 200, 0
    for _ in range(runs):
        state = GateState()
        world = windows(rng, Arm(errors=0.005), Arm(errors=0.0101), weight=0.1, requests=2000)
        for _ in range(15):
            state, results = update(config, state, *next(world))
            if combine(results) is Verdict.PASS:
                passed += 1
                break
    print(f"{passed} of {runs} canaries with twice the errors passed")
    assert passed <= config.pass_alpha * runs
