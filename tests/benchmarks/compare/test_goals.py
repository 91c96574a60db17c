import pytest

from benchmarks.compare import results
from benchmarks.compare.goals import GOALS, Goal, judge
from benchmarks.compare.results import Results
from benchmarks.compare.servers import BARE, FASTAPI, PROJECT
from benchmarks.errors import MeasurementError

SPEED = Goal("speed", (PROJECT, results.PREDICT), (FASTAPI, results.PREDICT), 6)
LATENCY = Goal("latency", (PROJECT, results.P99_AT_1000), None, 4, at_least=False, unit=" ms")


def measured(*values: tuple[str, str, list[float]]) -> Results:
    filled = Results({})
    for server, measure, rounds in values:
        for value in rounds:
            filled.add(server, measure, value)
    return filled


def test_a_ratio_is_taken_within_each_round_and_its_median_counts() -> None:
    """A round in which the whole machine was slow changes no ratio."""
    found = measured((PROJECT, results.PREDICT, [700, 7000, 6500]), (FASTAPI, results.PREDICT, [100, 1000, 1000]))
    (outcome,) = judge(found, [SPEED])
    assert outcome.values == (7.0, 7.0, 6.5)
    assert outcome.met


def test_a_goal_that_is_missed_is_not_met() -> None:
    found = measured((PROJECT, results.PREDICT, [5990]), (FASTAPI, results.PREDICT, [1000]))
    assert not judge(found, [SPEED])[0].met


@pytest.mark.parametrize(("value", "met"), [(4.0, True), (4.1, False)])
def test_a_latency_is_met_from_below(value: float, met: bool) -> None:
    assert judge(measured((PROJECT, results.P99_AT_1000, [value])), [LATENCY])[0].met is met


def test_a_goal_without_its_figures_is_left_out_not_met() -> None:
    assert judge(measured((PROJECT, results.PREDICT, [1])), [SPEED]) == []


def test_the_capacity_scales_with_the_bare_app() -> None:
    found = measured((PROJECT, results.CAPACITY, [14_400, 17_280]), (BARE, results.PREDICT, [25_000, 30_000]))
    (outcome,) = judge(found, GOALS)
    assert outcome.met
    assert outcome.value == pytest.approx(0.576)


def test_a_figure_that_was_not_taken_is_an_error_not_a_zero() -> None:
    with pytest.raises(MeasurementError, match="not measured"):
        Results({}).median(PROJECT, results.PREDICT)
