from functools import partial
from operator import truediv

import pytest

from custom_runtime.features.breaker import Breaker
from tests.support.feature_rows import Clock


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(threshold=3, interval_s=0.5, clock=clock, jitter=lambda: 0.5)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.fail()


def test_failures_below_the_threshold_change_nothing(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert breaker.admit()
    breaker.succeed()
    fail(breaker, 2)
    assert breaker.admit()


def test_open_it_admits_one_probe_per_interval(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    assert not breaker.admit()
    clock.advance(0.51)
    assert [breaker.admit() for _ in range(100)] == [True] + [False] * 99
    clock.advance(0.51)
    assert [breaker.admit(), breaker.admit()] == [True, False]


def test_a_successful_probe_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.advance(0.51)
    assert breaker.admit()
    breaker.succeed()
    assert not breaker.is_open
    assert all(breaker.admit() for _ in range(10))


def test_a_failed_probe_starts_a_new_interval(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.advance(0.51)
    assert breaker.admit()
    clock.advance(0.3)
    breaker.fail()
    clock.advance(0.3)
    assert not breaker.admit()
    clock.advance(0.21)
    assert breaker.admit()


def test_processes_probe_at_different_moments(clock: Clock) -> None:
    breakers = [Breaker(threshold=1, interval_s=0.5, clock=clock, jitter=partial(truediv, i, 10)) for i in range(11)]
    for breaker in breakers:
        breaker.fail()
    probes = []
    for _ in range(65):
        clock.advance(0.01)
        probes.append(sum(breaker.admit() for breaker in breakers))
    assert sum(probes) == 11
    assert max(probes) == 1
