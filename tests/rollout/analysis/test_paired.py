"""The verdict on pairs of answers: what differs, what is missing, and how sure it is."""

from __future__ import annotations

import random
from collections.abc import Hashable

import numpy as np
import pytest
from pydantic import ValidationError

from rollout.analysis.paired import LATENCY, MISSING, SCORES, Answer, Limits, Pairs, judge, pairs_of
from rollout.analysis.verdict import OnDoubt, Verdict

LIMITS = Limits(min_pairs=100)


def pairs(number: int, moved: int = 0, *, by: float = 0.3, slower: int = 0) -> Pairs:
    """`number` pairs, of which the first `moved` have other scores and the first `slower` are five times slower."""
    stable = [(f"r{i}", Answer((0.4,), 4.0)) for i in range(number)]
    canary = [(f"r{i}", Answer((0.4 + by * (i < moved),), 20.0 if i < slower else 4.0)) for i in range(number)]
    return pairs_of(stable, canary)


def verdicts(found: Pairs, limits: Limits = LIMITS) -> dict[str, Verdict]:
    return {result.name: result.verdict for result in judge(found, limits)}


def test_the_same_answers_pass() -> None:
    assert set(verdicts(pairs(300)).values()) == {Verdict.PASS}


def test_scores_that_differ_ask_a_person_and_roll_back_where_that_is_chosen() -> None:
    (scores,) = [one for one in judge(pairs(300, 60), LIMITS) if one.name == SCORES]
    assert (scores.verdict, scores.asks) == (Verdict.INCONCLUSIVE, True)
    assert "60 of 300 pairs (20 %) differ by more than 0.1" in scores.reason
    strict = LIMITS.model_copy(update={"on_scores": OnDoubt.ROLLBACK})
    assert verdicts(pairs(300, 60), strict)[SCORES] is Verdict.FAIL


def test_small_moves_of_every_score_pass() -> None:
    assert verdicts(pairs(300, 300, by=0.05))[SCORES] is Verdict.PASS


def test_too_few_pairs_say_how_many_are_missing() -> None:
    (scores,) = [one for one in judge(pairs(40), LIMITS) if one.name == SCORES]
    assert (scores.verdict, scores.needs_requests) == (Verdict.INCONCLUSIVE, 60)


def test_a_share_at_the_limit_is_inconclusive() -> None:
    found = judge(pairs(400, 20), LIMITS)[1]
    assert (found.verdict, found.asks) == (Verdict.INCONCLUSIVE, False)


def test_slow_answers_fail_and_latencies_that_nobody_recorded_are_left_out() -> None:
    assert verdicts(pairs(300, slower=200))[LATENCY] is Verdict.FAIL
    bare = pairs_of([("a", Answer((0.1,)))], [("a", Answer((0.1,)))])
    assert set(verdicts(bare)) == {MISSING, SCORES}


def test_answers_that_are_missing_hold_unless_they_are_young() -> None:
    stable: dict[Hashable, Answer] = {f"r{i}": Answer((0.4,)) for i in range(200)}
    canary: dict[Hashable, Answer] = {f"r{i}": Answer((0.4,)) for i in range(150)}
    young = frozenset(f"r{i}" for i in range(150, 200))
    assert verdicts(Pairs(stable, canary))[MISSING] is Verdict.INCONCLUSIVE
    assert verdicts(Pairs(stable, canary, young))[MISSING] is Verdict.PASS
    assert set(verdicts(Pairs({}, {})).values()) == {Verdict.NO_DATA}


def test_an_id_that_was_used_twice_names_no_request() -> None:
    twice = pairs_of([("a", Answer((0.1,))), ("a", Answer((0.9,)))], [("a", Answer((0.1,)))])
    assert twice.both() == []


def test_classes_are_compared_by_the_greatest_move() -> None:
    assert Answer((0.2, 0.3, 0.5)).moved(Answer((0.5, 0.3, 0.2))) == pytest.approx(0.3)
    assert Answer((0.2,)).moved(Answer(())) is None


@pytest.mark.parametrize("share", [0.05, 0.02])
def test_pairs_within_the_limit_are_rarely_judged_above_it_however_often_somebody_looks(share: float) -> None:
    rng, runs, failed = np.random.default_rng(5), 200, 0
    for _ in range(runs):
        moved = np.cumsum(rng.random(2000) < share)
        looks = range(100, 2000, 100)
        strict = LIMITS.model_copy(update={"on_scores": OnDoubt.ROLLBACK})
        failed += any(_scores_verdict(int(moved[n - 1]), n, strict) is Verdict.FAIL for n in looks)
    assert failed <= 0.025 * runs + 4


def _scores_verdict(moved: int, number: int, limits: Limits) -> Verdict:
    from rollout.analysis.paired import _share

    return _share(SCORES, moved, number, "differ", limits.differing, limits).verdict


def test_three_hundred_pairs_decide_what_a_shadow_of_another_population_is() -> None:
    chance = random.Random(3)
    stable = [(f"r{i}", Answer((chance.betavariate(2, 5),))) for i in range(300)]
    swapped = [(name, Answer((1 - answer.scores[0],))) for name, answer in stable]
    assert judge(pairs_of(stable, swapped), LIMITS)[1].asks


@pytest.mark.parametrize("wrong", [{"differing": 0.0}, {"min_pairs": 0}, {"slower_ratio": 0.5}, {"unknown": 1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(wrong)
