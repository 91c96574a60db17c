import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rollout.analysis.sequential import PROOF_GRID, Proof, relative_null

LOG_20 = math.log(20)


@pytest.mark.parametrize("p0", [0.01, 0.1, 0.5, 0.9])
def test_a_bet_under_the_null_is_fair(p0: float) -> None:
    """The expected wealth after one window is 1: summed over every outcome of 12 events with scipy's probabilities."""
    events = 12
    chances = stats.binom.pmf(np.arange(events + 1), events, p0)
    proofs = [math.exp(Proof().after(hits, events - hits, p0).evidence) for hits in range(events + 1)]
    assert float(chances @ proofs) == pytest.approx(1.0)


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


@pytest.mark.parametrize("p0", [0.0, 1.0])
def test_a_window_with_one_arm_only_tells_nothing(p0: float) -> None:
    assert Proof().after(5, 5, p0) == Proof()


def test_the_null_is_the_canarys_share_of_the_requests_weighted_by_the_ratio() -> None:
    assert relative_null(100, 900, 1.0) == pytest.approx(0.1)
    assert relative_null(100, 900, 2.0) == pytest.approx(2 / 11)
    assert relative_null(0, 900, 2.0) == 0.0
    assert relative_null(100, 0, 2.0) == 1.0


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0.001, 0.999)), max_size=20))
def test_the_evidence_is_finite_and_survives_json(windows: list[tuple[int, int, float]]) -> None:
    proof = Proof()
    for hits, misses, p0 in windows:
        proof = proof.after(hits, misses, p0)
    assert math.isfinite(proof.evidence)
    assert Proof(tuple(json.loads(json.dumps(asdict(proof)))["log_wealth"])) == proof
    assert len(proof.log_wealth) == len(PROOF_GRID)
