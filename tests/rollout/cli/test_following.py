"""`run` beside a controller: it follows what another process drives, and drives when nobody does."""

from __future__ import annotations

import pytest

from rollout.cli.following import follow
from rollout.engine.session import Session
from rollout.engine.state import Phase
from rollout.errors import Unavailable
from rollout.targets.target import LeaseRecord
from tests.support.rollout_world import World, manifest
from tests.support.targets.memory import MemoryTarget


def followed(world: World) -> tuple[Session, MemoryTarget]:
    """Return a session that knows a living controller, and its lease."""
    lease = MemoryTarget(manifest(), world.clock)
    lease.write_lease(LeaseRecord(holder="controller@a", renewed_at_s=world.clock.wall_s(), duration_s=100_000))
    return Session(world.target, world.clock, presence=lease), lease


def test_a_rollout_that_a_controller_drives_is_followed_to_its_end(world: World) -> None:
    world.start()
    session, _ = followed(world)
    world.clock.after(5, lambda: world.promoter().drive())
    found = follow(session)
    assert found is not None
    assert found.phase is Phase.SUCCEEDED


def test_a_rollout_that_nobody_drives_is_taken_over(world: World) -> None:
    world.start()
    assert follow(Session(world.target, world.clock)) is None
    assert world.state.phase is Phase.PENDING


def test_a_controller_that_dies_is_noticed(world: World) -> None:
    world.start()
    session, lease = followed(world)
    dead = LeaseRecord(holder="controller@a", renewed_at_s=world.clock.wall_s(), version=lease.read_lease().version)
    world.clock.after(10, lambda: lease.write_lease(dead))
    assert follow(session) is None


def test_an_outage_of_the_api_server_is_waited_for(world: World) -> None:
    world.start()
    session, _ = followed(world)
    down = iter([True] * 10)

    def before(method: str) -> None:
        if method == "read" and next(down, False):
            raise Unavailable("503")

    world.target.before = before
    world.clock.after(60, lambda: world.promoter().drive())
    found = follow(session)
    assert found is not None
    assert found.phase is Phase.SUCCEEDED


def test_a_long_wait_is_said_again_at_intervals(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.start()
    session, lease = followed(world)
    dead = LeaseRecord(holder="controller@a", renewed_at_s=world.clock.wall_s(), version=lease.read_lease().version)
    world.clock.after(100, lambda: lease.write_lease(dead))
    assert follow(session) is None
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Pending")]
    assert 4 <= len(said) <= 6  # at 0 s, then every 30 s until it is taken over at 145 s
