"""Drivers: a rollout is driven to its end, whatever happens meanwhile, and never twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from rollout.controller.drivers import Drivers
from rollout.controller.overview import Overview, OwnDriver
from rollout.engine.announcer import Broadcast
from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.engine.state import Command, Phase
from rollout.errors import LeaseHeld, Unavailable
from rollout.evidence.source import Reading
from tests.support.programs import GUARD_S, eventually
from tests.support.rollout_world import Behaviour, World


class Kept:
    """The world's traffic, which outlives each driver."""

    def __init__(self, world: World, closed: Callable[[], None] = lambda: None) -> None:
        self._world = world
        self._closed = closed

    def sample(self, predictors: Sequence[str]) -> Reading:
        return self._world.traffic.sample(predictors)

    def close(self) -> None:
        self._closed()


def drivers_of(
    world: World,
    *,
    errors: Sequence[Exception] = (),
    overview: Overview | None = None,
    closed: Callable[[], None] = lambda: None,
) -> tuple[Drivers, list[str]]:
    """Return drivers whose first sessions fail with these errors; the list has the threads that opened a session."""
    left, opened = list(errors), []
    table = overview or Overview(world.clock, "this controller")

    def session(namespace: str, name: str) -> Session:
        opened.append(threading.current_thread().name)
        if left:
            raise left.pop(0)
        return Session(world.target, world.clock)

    drivers = Drivers(
        session,
        lambda namespace, name, plan: Kept(world, closed),
        lambda namespace, name: Broadcast([world.diary, OwnDriver(table, namespace, name)]),
        table,
        retry_s=0.01,
    )
    return drivers, opened


def ended(drivers: Drivers) -> None:
    eventually(lambda: drivers.driven, lambda driven: not driven)


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
        gate.wait(GUARD_S)
        return Session(world.target, world.clock)

    world.start()
    drivers = Drivers(
        session,
        lambda namespace, name, plan: Kept(world),
        lambda namespace, name: world.diary,
        Overview(world.clock, "me"),
    )
    for _ in range(5):
        drivers.ensure("models", "churn")
    assert drivers.driven == [("models", "churn")]
    gate.set()
    ended(drivers)
    assert len(count) <= 2  # at most one more look, which finds nothing to drive


def test_a_rollout_that_begins_while_a_driver_ends_is_driven_too(world: World) -> None:
    """It is announced when the driver of the one before has seen its end, and is still there."""
    later = [Release("v9", image="churn:9")]

    def begin() -> None:
        if later:
            world.start(later.pop())
            drivers.ensure("models", "churn")

    world.start()
    drivers, _ = drivers_of(world, closed=begin)
    drivers.ensure("models", "churn")
    ended(drivers)
    assert world.predictors == ["v9"]


def test_the_overview_knows_who_drives(world: World) -> None:
    overview = Overview(world.clock, "this controller")
    world.start()
    overview.found("models", "churn", world.state)
    (before,) = overview.entries()
    held = LeaseHeld("a pipeline drives", holder="runner-7")
    drivers, _ = drivers_of(world, errors=[held], overview=overview)
    seen: list[str] = []
    world.diary.notify = lambda record, state: seen.append(overview.entries()[0].driver)
    drivers.ensure("models", "churn")
    ended(drivers)
    (entry,) = overview.entries()
    assert (before.driver, before.under_way) == ("", True)
    assert seen[0] == "runner-7"
    assert (entry.driver, entry.under_way, entry.problem) == ("this controller", False, "")
    assert entry.driver_seen_s > before.driver_seen_s


def test_without_a_rollout_there_is_nothing_to_drive(world: World) -> None:
    drivers, _ = drivers_of(world)
    drivers.ensure("models", "churn")
    ended(drivers)
    assert world.predictors == ["v7"]


def test_a_paused_rollout_stays_watched_and_a_failure_is_still_rolled_back(world: World) -> None:
    """Ten times watch_held_s pass before the canary fails."""
    world.start()
    world.when(10, lambda: Session(world.target, world.clock).send(Command.PAUSE))
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
