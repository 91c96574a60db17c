from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.capacity import find_peak


@dataclass(frozen=True)
class Judged:
    valid: bool
    bottleneck: str | None = None


def up_to(limit_qps: float) -> tuple[list[float], Callable[[float], Judged]]:
    tried: list[float] = []

    def run(qps: float) -> Judged:
        tried.append(qps)
        return Judged(qps <= limit_qps)

    return tried, run


@given(st.floats(2, 60_000), st.floats(1, 60_000), st.sampled_from([1.25, 2.0]))
def test_the_peak_is_valid_and_within_the_precision(limit_qps: float, start_qps: float, step: float) -> None:
    _, run = up_to(limit_qps)
    capacity = find_peak(run, run, start_qps, step=step)
    assert capacity.peak is not None
    assert limit_qps / 1.0501 <= capacity.peak.qps <= limit_qps
    assert not capacity.at_least


def test_a_server_that_holds_no_rate_has_no_capacity() -> None:
    tried, run = up_to(0)
    assert find_peak(run, run, 64).peak is None
    assert min(tried) == 1


def test_one_disturbed_trial_does_not_lower_the_peak() -> None:
    tried, steady = up_to(1000)

    def disturbed(qps: float) -> Judged:
        return steady(qps) if len(tried) % 2 else Judged(steady(qps).valid and False)

    capacity = find_peak(disturbed, disturbed, 400)
    assert capacity.peak is not None
    assert capacity.peak.qps > 950


def test_a_peak_that_fails_its_confirmation_gives_way() -> None:
    _, short = up_to(1000)
    _, long = up_to(900)
    capacity = find_peak(short, long, 500)
    assert capacity.peak is not None
    assert 850 < capacity.peak.qps <= 900


def test_a_client_at_its_end_is_not_held_against_the_server() -> None:
    def run(qps: float) -> Judged:
        return Judged(True, "the client used 99 % of a core" if qps > 1000 else None)

    capacity = find_peak(run, run, 400)
    assert capacity.peak is not None
    assert capacity.peak.qps <= 1000
    assert capacity.at_least


def test_a_client_that_is_late_at_three_rates_in_a_row_ends_the_search() -> None:
    tried: list[float] = []

    def late(qps: float) -> Judged:
        tried.append(qps)
        return Judged(True, "the client sent 5 ms late on average")

    capacity = find_peak(late, late, 400)
    assert (capacity.peak, capacity.at_least) == (None, True)
    assert tried == [400, 400, 200, 200, 100, 100]


def test_a_client_that_is_late_now_and_then_does_not_end_the_search() -> None:
    def run(qps: float) -> Judged:
        return Judged(qps <= 20, "the client sent 5 ms late on average" if qps > 80 and qps != 200 else None)

    capacity = find_peak(run, run, 400)
    assert capacity.peak is not None
    assert 19 < capacity.peak.qps <= 20
