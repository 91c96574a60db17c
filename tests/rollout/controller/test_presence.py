"""Presence: a controller that is alive is known in each namespace that it watches, and one that left is not."""

from __future__ import annotations

from rollout.controller.presence import Presence
from rollout.engine.session import Session
from rollout.errors import Unavailable
from rollout.targets.target import LeaseStore
from tests.support.rollout_world import FakeClock, World, manifest
from tests.support.targets.memory import MemoryTarget


def stores(clock: FakeClock) -> dict[str, MemoryTarget]:
    return {name: MemoryTarget(manifest(), clock) for name in ("models", "shop")}


def test_a_living_controller_is_known_in_its_namespaces_until_it_leaves(world: World) -> None:
    leases = stores(world.clock)
    opened: list[str] = []

    def open_store(namespace: str) -> LeaseStore:
        opened.append(namespace)
        return leases[namespace]

    presence = Presence(open_store, world.clock, "controller@a")
    session = Session(world.target, world.clock, presence=leases["models"])
    assert session.controller() == ""
    presence.announce("models")
    presence.announce("models")
    assert session.controller() == "controller@a"
    assert opened == ["models"]
    assert leases["shop"].read_lease().holder == ""
    world.clock.sleep(20)
    presence.renew()
    world.clock.sleep(29)
    assert session.controller() == "controller@a"
    presence.close()
    assert session.controller() == ""


def test_a_dead_controller_is_not_known_after_two_leases(world: World) -> None:
    lease = MemoryTarget(manifest(), world.clock)
    presence = Presence(lambda namespace: lease, world.clock, "controller@a")
    presence.announce("models")
    session = Session(world.target, world.clock, presence=lease)
    world.clock.sleep(31)
    assert session.controller() == ""
    presence.close()


def test_the_first_controller_that_leaves_does_not_hide_the_second(world: World) -> None:
    lease = MemoryTarget(manifest(), world.clock)
    first, second = (Presence(lambda namespace: lease, world.clock, name) for name in ("a", "b"))
    first.announce("models")
    second.announce("models")
    first.close()
    assert Session(world.target, world.clock, presence=lease).controller() == "b"
    second.close()


def test_a_lease_that_cannot_be_written_or_read_is_no_error(world: World) -> None:
    lease = MemoryTarget(manifest(), world.clock)

    def fail(method: str) -> None:
        raise Unavailable("503")

    lease.before = fail
    presence = Presence(lambda namespace: lease, world.clock, "a")
    presence.announce("models")
    assert Session(world.target, world.clock, presence=lease).controller() == ""
    presence.close()
