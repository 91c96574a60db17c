import math

import numpy as np
import pytest
from scipy import stats

from rollout.analysis import clusters
from rollout.analysis.clusters import SPREADS, Clusters, prior

ALIKE = np.array([1.0, 0, 0, 0, 0]) + 1e-12


def run(canary: list[list[int]], stable: list[list[int]], *, requests: tuple[int, int] = (500, 4500)) -> Clusters:
    """Windows of events per pod; every pod has the same number of requests in each."""
    state = Clusters.none((len(canary[0]),), (len(stable[0]),))
    for mine, theirs in zip(canary, stable, strict=True):
        n = (np.full(len(mine), float(requests[0])), np.full(len(theirs), float(requests[1])))
        state = state.window(n, (np.array(mine, float), np.array(theirs, float)))
    return state


def test_the_likelihood_of_an_arm_is_scipys_negative_binomial() -> None:
    x, e, spread = np.array([3.0, 9.0]), np.array([2.0, 5.0]), 0.4
    shape = 1 / spread**2
    logs = np.array([-0.3, 0.0, 0.7])
    found = clusters._arm(x, e, spread, logs)
    wanted = [float(sum(stats.nbinom.logpmf(x, shape, 1 / (1 + np.exp(log) * e / shape)))) for log in logs]
    constant = float((x * np.log(e) - [math.lgamma(n + 1) for n in x]).sum())
    assert found + constant == pytest.approx(wanted)


@pytest.mark.parametrize("value", [0.3, 1.0, 7.9, 8.0, 40.0, 1e6])
def test_the_gamma_function_is_maths(value: float) -> None:
    assert clusters._log_gamma(np.array([value]))[0] == pytest.approx(math.lgamma(value), abs=1e-8, rel=1e-9)


def test_without_clustering_the_design_effect_is_one_and_with_pauses_it_is_their_size() -> None:
    rng = np.random.default_rng(4)
    even = run(rng.binomial(500, 0.01, (200, 2)).tolist(), rng.binomial(4500, 0.01, (200, 2)).tolist())
    assert float(even.correlation) < 0.001
    paused = run([[20, 0], [0, 0]] * 100, [[0, 0], [180, 0]] * 100)
    effect = clusters.design_effect(paused.canary, paused.correlation)
    assert 10 < effect[0] < 30  # twenty requests are slow together


def test_what_one_pod_did_is_not_the_versions_fault() -> None:
    """One of three canary pods is ten times as bad: that is a pod."""
    state = run([[15, 1, 2]] * 20, [[14, 13, 12]] * 20)
    assert not state.worse(prior(0.2), margin=1.1, floor=0.001, gross=0.1, wanted=4.4)


def test_what_all_pods_do_is() -> None:
    state = run([[15, 14, 16]] * 5, [[14, 13, 12]] * 5)
    assert state.worse(prior(0.2), margin=1.1, floor=0.001, gross=0.1, wanted=4.4)


def test_one_window_is_never_enough() -> None:
    state = run([[500, 500, 500]], [[14, 13, 12]])
    assert not state.worse(prior(0.2), margin=1.1, floor=0.001, gross=0.1, wanted=4.4)
    assert not state.above(0.01, wanted=4.4)


def test_stables_own_differences_weaken_the_evidence() -> None:
    even = run([[4, 4]] * 30, [[13, 13]] * 30)
    uneven = run([[4, 4]] * 30, [[1, 25]] * 30)
    found = [float(state.compared(prior(0.2), margin=1.1).evidence) for state in (even, uneven)]
    assert found[0] > found[1] + 2
    assert float(uneven.compared(prior(0.2), margin=1.1).spread) > 2 * float(
        even.compared(prior(0.2), margin=1.1).spread
    )


def test_more_pods_tell_what_more_requests_do_not() -> None:
    few = run([[6, 6]] * 200, [[27, 27]] * 200)
    many = run([[6] * 10] * 8, [[27] * 10] * 8)
    wanted = -math.log(0.0125) + math.log(2)
    assert few.compared(prior(0.2), margin=1.1).evidence < wanted < many.compared(prior(0.2), margin=1.1).evidence


def test_a_fault_that_begins_late_is_found_in_its_epoch() -> None:
    state = run([[2, 2, 1]] * 120 + [[15, 16, 14]] * 12, [[14, 13, 12]] * 132)
    assert state.worse(prior(0.2), margin=1.1, floor=0.001, gross=0.1, wanted=4.4)


def test_a_step_keeps_what_was_seen_and_measures_it_by_its_own_rate() -> None:
    """The night has a third of the day's errors: a canary with more traffic by night is not the better one for it."""
    state = run([[5, 5]] * 10, [[45, 45]] * 10)
    state = state.next_step()
    n = (np.array([2500.0, 2500.0]), np.array([2500.0, 2500.0]))
    for _ in range(10):
        state = state.window(n, (np.array([8.0, 8.0]), np.array([8.0, 8.0])))
    compared = state.compared(prior(0.2), margin=1.1)
    assert float(compared.ratio) == pytest.approx(1.0, abs=0.01)
    assert compared.evidence < 0


def test_the_prior_is_a_half_cauchy_over_the_spreads() -> None:
    weights = prior(0.2)
    assert weights.sum() == pytest.approx(1.0)
    assert weights.argmax() == SPREADS.index(0.2)
    assert prior(1.0)[-1] > weights[-1] > prior(0.05)[-1]


def test_evidence_under_the_null_is_worth_one_on_average() -> None:
    """Fair bets: the mean of the ratio of marginal likelihoods over the null's own prior is at most 1."""
    rng, weights, runs = np.random.default_rng(9), prior(0.2), 4000
    spread = rng.choice(SPREADS, runs, p=weights)[:, None]
    rates = 0.01 * rng.gamma(1 / spread**2, spread**2, (runs, 4))
    x = rng.poisson(rates * 2000).astype(float)
    state = Clusters.none((runs, 2), (runs, 2)).window((np.full((runs, 2), 2000.0),) * 2, (x[:, :2], x[:, 2:]))
    evidence = state.compared(weights, margin=1.0).evidence
    assert np.exp(np.minimum(evidence, 12)).mean() < 1.3
    assert (evidence >= math.log(20)).mean() <= 0.05
