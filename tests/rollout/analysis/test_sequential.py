import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rollout.analysis.sequential import ALARM_GRID, PROOF_GRID, Alarm, Proof, relative_null

LOG_20 = math.log(20)


@pytest.mark.parametrize("p0", [0.01, 0.1, 0.5, 0.9])
def test_a_bet_under_the_null_is_fair(p0: float) -> None:
    """The expected wealth after one window is 1: summed over every outcome of 12 events with scipy's probabilities."""
    events = 12
    chances = stats.binom.pmf(np.arange(events + 1), events, p0)
    alarms = [math.exp(Alarm().after(hits, events - hits, p0).evidence) for hits in range(events + 1)]
    proofs = [math.exp(Proof().after(hits, events - hits, p0).evidence) for hits in range(events + 1)]
    assert float(chances @ alarms) == pytest.approx(1.0)
    assert float(chances @ proofs) == pytest.approx(1.0)


def test_a_bounded_bet_is_worth_less_than_a_fair_one() -> None:
    events, p0 = 12, 0.1
    chances = stats.binom.pmf(np.arange(events + 1), events, p0)
    capped = [math.exp(Alarm().after(hits, events - hits, p0, cap=0.5).evidence) for hits in range(events + 1)]
    assert 0.5 < float(chances @ capped) < 1.0


def test_windows_may_be_cut_anywhere_in_a_proof() -> None:
    whole = Proof().after(3, 997, 0.01)
    cut = Proof().after(1, 500, 0.01).after(0, 0, 0.01).after(2, 497, 0.01)
    assert cut.log_wealth == pytest.approx(whole.log_wealth)


def test_without_a_hit_the_proof_is_the_rule_of_three_at_a_small_premium() -> None:
    """A fixed-n test of "less than 1 %" needs 299 requests without a hit (0.99**299 < 0.05) and allows one look."""
    assert stats.binom.pmf(0, 298, 0.01) > 0.05 > stats.binom.pmf(0, 299, 0.01)
    needed = next(n for n in range(1, 10_000) if Proof().after(0, n, 0.01).evidence >= LOG_20)
    assert 299 < needed <= 450
    estimated = Proof().further(hits=0, misses=1, p0=0.01, wanted=LOG_20)
    assert estimated == pytest.approx(needed, rel=0.2)


def test_a_proof_needs_other_figures_when_the_rate_is_at_the_limit() -> None:
    assert Proof().further(hits=0.01, misses=0.99, p0=0.01, wanted=LOG_20) is None
    assert Proof().further(hits=0.002, misses=0.998, p0=0.0, wanted=LOG_20) is None


def test_the_alarm_agrees_with_an_exact_test_where_that_is_sure() -> None:
    """One look at counts for which scipy's binomial test gives p < 1e-6; and none at counts it finds ordinary."""
    assert stats.binomtest(60, 200, 0.1, alternative="greater").pvalue < 1e-6
    assert Alarm().after(60, 140, 0.1).evidence > LOG_20
    assert stats.binomtest(22, 200, 0.1, alternative="greater").pvalue > 0.3
    assert Alarm().after(22, 178, 0.1).evidence < LOG_20


def test_a_long_good_past_does_not_hide_a_fault_that_begins_late() -> None:
    late = Alarm()
    for _ in range(500):
        late = late.after(2, 998, 0.01)
    windows = 0
    while late.evidence < LOG_20:
        late, windows = late.after(50, 950, 0.01), windows + 1
    assert windows <= 2


def test_no_single_window_raises_the_alarm_when_its_gain_is_capped() -> None:
    spike = Alarm().after(10_000, 0, 0.1, cap=LOG_20 / 3)
    assert spike.evidence < LOG_20 / 2
    sustained, windows = spike, 1
    while sustained.evidence < LOG_20:
        sustained, windows = sustained.after(100, 0, 0.1, cap=LOG_20 / 3), windows + 1
    assert windows == 4


@pytest.mark.parametrize("p0", [0.0, 1.0])
def test_a_window_with_one_arm_only_tells_nothing(p0: float) -> None:
    assert Alarm().after(5, 5, p0) == Alarm()
    assert Proof().after(5, 5, p0) == Proof()


def test_the_null_is_the_canarys_share_of_the_requests_weighted_by_the_ratio() -> None:
    assert relative_null(100, 900, 1.0) == pytest.approx(0.1)
    assert relative_null(100, 900, 2.0) == pytest.approx(2 / 11)
    assert relative_null(0, 900, 2.0) == 0.0
    assert relative_null(100, 0, 2.0) == 1.0


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0.001, 0.999)), max_size=20),
    st.floats(0.1, 5),
)
def test_the_evidence_is_finite_and_survives_json(windows: list[tuple[int, int, float]], cap: float) -> None:
    alarm, proof = Alarm(), Proof()
    for hits, misses, p0 in windows:
        alarm, proof = alarm.after(hits, misses, p0, cap=cap), proof.after(hits, misses, p0)
    assert math.isfinite(alarm.evidence)
    assert math.isfinite(proof.evidence)
    stored = json.loads(json.dumps(asdict(alarm)))
    assert Alarm(tuple(stored["log_wealth"]), stored["windows"]) == alarm
    assert (len(alarm.log_wealth), len(proof.log_wealth)) == (len(ALARM_GRID), len(PROOF_GRID))
