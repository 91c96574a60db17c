"""Windows after a change of weights, from a source that is behind as a Prometheus is."""

from collections.abc import Sequence
from dataclasses import replace

from rollout.analysis.counts import LATENCY_BUCKETS, Arm, Counts
from rollout.analysis.verdict import Verdict, combine
from rollout.engine.analyst import Analyst, Evidence
from rollout.engine.state import Phase, RolloutState, Timers
from rollout.evidence.source import Reading
from rollout.plan.plan import Plan

FOLLOWING, NOT_YET = Timers(step_s=10.0), Timers()


class Lagging:
    """Two pods that are scraped now and then; the counts of a reading are those of the last scrape."""

    def __init__(self, settle: int = 2) -> None:
        self._settle = settle
        self._requests = {"v7": 0, "v8": 0}
        self._errors = 0
        self._scrapes = 0

    def scrape(self, stable: int, canary: int, *, errors: int = 0) -> None:
        self._requests["v7"] += stable
        self._requests["v8"] += canary
        self._errors += errors
        self._scrapes += 1

    def sample(self, predictors: Sequence[str]) -> Reading:
        arms = {
            name: Arm.of(
                Counts.of_latency([count, *[0] * (LATENCY_BUCKETS - 1)], errors=self._errors if name == "v8" else 0)
            )
            for name, count in self._requests.items()
        }
        scrapes = {name: {"pod": self._scrapes} for name in predictors}
        return Reading(arms, 15.0 * self._scrapes, scrapes, settle=self._settle)

    def close(self) -> None:
        pass


def at(step: int, timers: Timers, evidence: Evidence = Evidence()) -> RolloutState:  # noqa: B008 - frozen
    state = RolloutState(
        id="1f2e", plan=Plan(), stable="v7", canary="v8", phase=Phase.PROGRESSING, step=step, timers=timers
    )
    return replace(state, evidence=evidence.state)


def look(analyst: Analyst, state: RolloutState) -> Evidence:
    seen = analyst.look(state, ["v7", "v8"])
    analyst.keep()
    return seen


def test_requests_of_the_weights_before_are_in_no_share() -> None:
    """With the real operator a healthy canary at 30 % was held for its 18.4 %: the scrape held requests of 10 %."""
    source = Lagging()
    analyst = Analyst(source)
    seen = look(analyst, at(0, NOT_YET))
    for _ in range(4):
        source.scrape(900, 100)
        seen = look(analyst, at(0, FOLLOWING, seen))
    assert seen.requests == {"v7": 900, "v8": 100}
    source.scrape(900, 100)  # begun under the weights before
    seen = look(analyst, at(1, NOT_YET, seen))
    assert seen.requests == {}
    shares = []
    for stable, canary in [(800, 200), (750, 250), (700, 300), (700, 300)]:
        source.scrape(stable, canary)
        seen = look(analyst, at(1, FOLLOWING, seen))
        shares.append(seen.requests.get("v8"))
    assert shares == [None, None, 300, 300]


def test_until_then_nothing_passes_and_the_reason_says_so() -> None:
    source = Lagging()
    analyst = Analyst(source)
    seen = look(analyst, at(0, NOT_YET))
    source.scrape(90_000, 10_000)
    seen = look(analyst, at(0, FOLLOWING, seen))
    assert combine(seen.results) is Verdict.NO_DATA
    assert "after the mesh had these weights" in seen.results[0].reason


def test_harm_is_judged_all_the_while() -> None:
    source = Lagging()
    analyst = Analyst(source)
    seen = look(analyst, at(0, NOT_YET))
    for _ in range(3):
        source.scrape(900, 100, errors=100)
        seen = look(analyst, at(0, NOT_YET, seen))
    assert combine(seen.results) is Verdict.FAIL


def test_a_source_that_is_read_directly_settles_at_once() -> None:
    source = Lagging(settle=0)
    analyst = Analyst(source)
    seen = look(analyst, at(0, NOT_YET))
    source.scrape(900, 100)
    assert look(analyst, at(0, FOLLOWING, seen)).requests == {"v7": 900, "v8": 100}


class Gapped:
    """A source that has no series of v8 in its third reading."""

    def __init__(self) -> None:
        self._readings = iter([{"v7": 0, "v8": 0}, {"v7": 900, "v8": 100}, {"v7": 1800}, {"v7": 2700, "v8": 300}])

    def sample(self, predictors: Sequence[str]) -> Reading:
        found = next(self._readings)
        return Reading({name: Arm.of(Counts.of_latency([n, *[0] * 11])) for name, n in found.items()})

    def close(self) -> None:
        pass


def test_a_predictor_that_reappears_is_not_counted_from_the_start_again() -> None:
    analyst, seen, shares = Analyst(Gapped()), Evidence(), []
    for _ in range(4):
        seen = look(analyst, at(0, FOLLOWING, seen))
        shares.append(seen.requests.get("v8"))
    assert shares == [None, 100, None, 200]
    assert analyst.counts["v8"].requests == 300


def test_evidence_that_somebody_has_edited_is_lost_and_the_gates_begin_anew() -> None:
    analyst = Analyst(Gapped())
    look(analyst, at(0, FOLLOWING))
    seen = look(analyst, at(0, FOLLOWING, Evidence(state={"clusters": "edited"})))
    assert {result.name for result in seen.results} >= {"errors", "slo_errors"}
    assert seen.requests == {"v7": 900, "v8": 100}
