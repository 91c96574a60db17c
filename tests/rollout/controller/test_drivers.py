"""Drivers: a rollout is driven to its end, whatever happens meanwhile, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest

from rollout.analysis.counts import Counts
from rollout.controller.drivers import Drivers
from rollout.engine.session import Session
from rollout.engine.state import Command, Phase
from rollout.errors import LeaseHeld, Unavailable
from tests.support.programs import eventually
from tests.support.rollout_world import Behaviour, World


class Kept:
    """The world's traffic, which outlives each driver."""

    def __init__(self, world: World) -> None:
        self._world = world

    def sample(self, predictors: Sequence[str]) -> Mapping[str, Counts]:
        return self._world.traffic.sample(predictors)

    def close(self) -> None:
        pass


def drivers_of(world: World, *, errors: Sequence[Exception] = ()) -> tuple[Drivers, list[str]]:
    """Drivers whose first sessions fail with these errors; the list has the threads that opened a session."""
    left, opened = list(errors), []

    def session(namespace: str, name: str) -> Session:
        opened.append(threading.current_thread().name)
        if left:
            raise left.pop(0)
        return Session(world.target, world.clock)

    return Drivers(session, lambda namespace, name: Kept(world), world.diary, retry_s=0.01), opened


def ended(drivers: Drivers) -> None:
    eventually(lambda: drivers.driven, lambda driven: not driven, within_s=60)


def test_a_rollout_is_driven_to_its_end_and_its_driver_leaves(world: World) -> None:
    world.start()
    drivers, _ = drivers_of(world)
    drivers.ensure("models", "churn")
    ended(drivers)
    assert world.predictors == ["v8"]


@pytest.mark.parametrize("error", [Unavailable("503"), LeaseHeld("another"), KeyError("a bug")])
def test_a_driver_that_fails_is_started_again(world: World, error: Exception) -> None:
    world.start()
    drivers, opened = drivers_of(world, errors=[error, error])
    drivers.ensure("models", "churn")
    ended(drivers)
    assert world.predictors == ["v8"]
    assert len(opened) == 3


def test_a_rollout_has_one_driver_however_often_it_is_seen(world: World) -> None:
    gate, count = threading.Event(), []

    def session(namespace: str, name: str) -> Session:
        count.append(name)
        gate.wait(30)
        return Session(world.target, world.clock)

    world.start()
    drivers = Drivers(session, lambda namespace, name: Kept(world), world.diary)
    for _ in range(5):
        drivers.ensure("models", "churn")
    assert drivers.driven == [("models", "churn")]
    gate.set()
    ended(drivers)
    assert count == ["churn"]


def test_without_a_rollout_there_is_nothing_to_drive(world: World) -> None:
    drivers, _ = drivers_of(world)
    drivers.ensure("models", "churn")
    ended(drivers)
    assert world.predictors == ["v7"]


def test_a_paused_rollout_stays_watched_and_a_failure_is_still_rolled_back(world: World) -> None:
    """Ten times watch_held_s pass before the canary fails."""
    world.start()
    world.when(10, lambda: Session(world.target, world.clock).say(Command.PAUSE))
    world.when(10, lambda: world.clock.after(600, lambda: world.traffic.behaviour.update(v8=Behaviour(errors=0.5))))
    outcome = Session(world.target, world.clock).drive(world.traffic, world.diary, stop=lambda: False, forever=True)
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.plan.watch_held_s == 60


def test_a_controller_that_ends_changes_nothing_and_the_next_one_goes_on(world: World) -> None:
    world.start()
    stopped = threading.Event()
    world.when(30, stopped.set)
    before = Session(world.target, world.clock).drive(world.traffic, world.diary, stop=stopped.is_set, forever=True)
    assert before.interrupted
    assert world.target.read().deployment.traffic() == {"v7": 70, "v8": 30}
    assert world.state is not None
    assert world.state.reason != "Interrupted"
    drivers, _ = drivers_of(world)
    drivers.ensure("models", "churn")
    ended(drivers)
    assert world.predictors == ["v8"]
