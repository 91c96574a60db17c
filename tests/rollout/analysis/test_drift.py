import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from rollout.analysis.counts import SCORE_BINS
from rollout.analysis.drift import DriftGate, shift

EDGES = np.linspace(0, 1, SCORE_BINS + 1)


def shares(a: float, b: float) -> np.ndarray:
    return np.diff(stats.beta(a, b).cdf(EDGES))


@pytest.mark.parametrize("rows", [(1800, 200), (9000, 1000), (5000, 5000)])
@pytest.mark.parametrize("canary", [(1.2, 3), (1.8, 3), (2.4, 3)])
def test_the_interval_covers_the_true_shift(rows: tuple[int, int], canary: tuple[float, float]) -> None:
    """Each end of a 95 % interval is wrong in 2.5 % of samples by design; 5 % are allowed for the approximation."""
    rng, samples, too_high, too_low = np.random.default_rng(1), 400, 0, 0
    p, q = shares(*canary), shares(1.2, 3)
    truth = float(jensenshannon(p, q, base=2)) ** 2
    for _ in range(samples):
        low, high = shift(rng.multinomial(rows[0], q), rng.multinomial(rows[1], p)).interval(
            fail_alpha=0.025, pass_alpha=0.025
        )
        too_high += low > truth
        too_low += high < truth
    assert too_high <= 0.05 * samples
    assert too_low <= 0.05 * samples


def test_the_estimate_is_free_of_the_bias_of_small_samples() -> None:
    rng, q = np.random.default_rng(2), shares(2, 2)
    samples = [(rng.multinomial(4500, q), rng.multinomial(500, q)) for _ in range(300)]
    naive = np.mean([jensenshannon(stable, canary, base=2) ** 2 for stable, canary in samples])
    assert np.mean([shift(stable, canary).bits for stable, canary in samples]) < naive / 3


def test_the_customary_limit_of_the_psi_is_where_the_docs_say() -> None:
    p, q = shares(1.81, 3), shares(1.2, 3)
    assert float(((p - q) * np.log(p / q)).sum()) == pytest.approx(0.25, abs=0.005)
    assert shift(q * 1e6, p * 1e6).bits == pytest.approx(DriftGate().threshold, abs=0.003)


def test_bins_empty_in_both_add_nothing() -> None:
    left = np.array([500, 500] + [0] * 18)
    assert shift(left * 9, left).bits == 0.0


def test_scores_where_stable_has_none_are_the_largest_shift() -> None:
    stable, canary = np.zeros(20), np.zeros(20)
    stable[2], canary[17] = 5000, 300
    seen = shift(stable, canary)
    assert 0.9 < seen.interval(fail_alpha=0.001, pass_alpha=0.001)[0] <= seen.bits <= 1.0


def test_the_same_histograms_give_the_same_answer() -> None:
    q = shares(1.2, 3) * 1000
    assert shift(q, q[::-1]) == shift(q, q[::-1])
