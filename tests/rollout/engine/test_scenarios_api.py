"""Scenarios 4, 5, 6, 22, 24: promoters that die, promoters that meet, an API that refuses, clocks that lie."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from rollout.engine.lease import Lock
from rollout.engine.state import Phase
from rollout.errors import Conflict, Denied, LeaseHeld, LeaseLost, Rejected, Unavailable
from tests.support.rollout_world import Behaviour, World


class Killed(BaseException):
    """What SIGKILL is in one process: nothing after it runs, not even `finally` does anything useful."""


def kill_at(world: Any, call: Any) -> Any:
    """Let the target die at its n-th call, and stay dead until the next promoter."""
    calls = []

    def before(method: Any) -> None:
        calls.append(method)
        if len(calls) >= call:
            raise Killed(method)

    world.target.before = before
    return calls


def drive_through_kills(world: Any, calls: Any) -> Any:
    """Kill one promoter after the other at the given calls; return the last outcome."""
    for call in calls:
        kill_at(world, call)
        with pytest.raises(Killed):
            world.promoter().drive()
        world.target.before = lambda method: None
        assert sum(world.target.read().deployment.traffic().values()) == 100
        assert sum(world.target.mesh_weights.values()) == 100
    return world.promoter().drive()


@pytest.mark.parametrize("call", range(3, 60, 3))
def test_4_a_promoter_killed_between_any_two_calls_is_continued(world: World, call: Any) -> None:
    world.start()
    outcome = drive_through_kills(world, [call])
    assert outcome.state.phase is Phase.SUCCEEDED
    assert world.predictors == ["v8"]


def test_4_a_promoter_killed_again_and_again_still_gets_there(world: World) -> None:
    world.start()
    assert drive_through_kills(world, [9, 14, 23, 31, 12, 40, 8, 27]).state.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("call", range(8, 32, 4))
def test_4_a_rollback_that_was_killed_is_continued_as_a_rollback(
    world: World, behaviour: type[Behaviour], call: Any
) -> None:
    world.start()
    world.when(10, lambda: world.crash("v8"))
    outcome = drive_through_kills(world, [call])
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}
    assert world.predictors == ["v7"]


def test_4_killed_after_the_patch_and_before_its_verification(world: World) -> None:
    world.start()
    patch, patched = world.target.patch, []

    def kill_after(operations: Any, *, dry_run: Any = False) -> Any:
        result = patch(operations, dry_run=dry_run)
        if any(op["path"].endswith("/traffic") for op in operations):
            patched.append(True)
            raise Killed("after the patch")
        return result

    world.target.patch = kill_after
    with pytest.raises(Killed):
        world.promoter().drive()
    world.target.patch = patch
    assert patched
    assert world.target.read().deployment.traffic() == {"v7": 90, "v8": 10}
    assert world.state.step == 0  # state and weights came in one patch
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_6_a_second_promoter_is_refused_while_the_first_renews(world: World) -> None:
    world.start()
    first = Lock(world.target, world.clock, holder="first")
    first.acquire()
    world.clock.after(4, first.renew)
    world.clock.after(6, first.renew)
    with pytest.raises(LeaseHeld, match="first drives this rollout"):
        world.promoter().drive()


def test_6_an_expired_lease_is_taken_over_after_watching_it(world: World) -> None:
    world.start()
    Lock(world.target, world.clock, holder="dead").acquire()
    began_s = world.clock.now_s
    world.promoter()._take_lease(None)
    assert 15 <= world.clock.now_s - began_s < 20
    assert world.target.read_lease().transitions == 2


def test_6_a_wrong_wall_clock_neither_steals_nor_blocks_a_lease(world: World) -> None:
    first = Lock(world.target, world.clock, holder="first")
    first.acquire()
    world.clock.skew_s = 86_400.0  # the second promoter's clock is a day ahead: by it, the lease is long over

    def back_in_time() -> None:
        world.clock.skew_s = 0.0
        first.renew()
        first._write(first._record)

    world.clock.after(4, back_in_time)
    with pytest.raises(LeaseHeld):
        Lock(world.target, world.clock, holder="second").acquire()


def test_6_a_late_writer_is_fenced_by_the_annotation_and_stops(world: World) -> None:
    """The first promoter hangs for minutes, the second takes over, the first wakes up in the middle of its write."""
    world.start()
    second: list[Any] = []
    woken: list[Any] = []
    patch = world.target.patch

    def hang(operations: Any, *, dry_run: Any = False) -> Any:
        if not second and any(op["path"].endswith("/traffic") for op in operations):
            second.append(True)
            world.target.patch = patch
            world.clock.sleep(120)
            woken.append(world.promoter().drive())
        return patch(operations, dry_run=dry_run)

    world.target.patch = hang
    with pytest.raises(LeaseLost, match=r"this one .* stops|this promoter stops"):
        world.promoter().drive()
    assert woken[0].state.phase is Phase.SUCCEEDED
    assert world.predictors == ["v8"]


def test_6_two_promoters_that_start_at_once_do_not_both_win(world: World) -> None:
    found = world.target.read_lease()
    Lock(world.target, world.clock, holder="first").acquire()
    second = Lock(world.target, world.clock, holder="second")
    world.target.read_lease = lambda: found  # it looked before the first one wrote
    with pytest.raises(LeaseHeld, match="same moment"):
        second.acquire()


def test_22_a_409_in_mid_rollout_is_read_again_and_decided_anew(world: World) -> None:
    world.start()
    refused: list[Any] = []
    patch = world.target.patch

    def conflicts(operations: Any, *, dry_run: Any = False) -> Any:
        if len(refused) < 5 and world.clock.now_s > 1030:
            refused.append(True)
            raise Conflict("409")
        return patch(operations, dry_run=dry_run)

    world.target.patch = conflicts
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert len(refused) == 5


def test_22_a_422_stops_the_promoter_with_the_webhooks_words_and_the_weights_stay(world: World) -> None:
    world.start()
    patch = world.target.patch

    def webhook(operations: Any, *, dry_run: Any = False) -> Any:
        if any(op["path"].endswith("/traffic") and op["value"] == 30 for op in operations):
            raise Rejected("Traffic must sum to 100 for multiple predictors")
        return patch(operations, dry_run=dry_run)

    world.target.patch = webhook
    with pytest.raises(Rejected, match="Traffic must sum to 100"):
        world.promoter().drive()
    assert world.target.mesh_weights == {"v7": 90, "v8": 10}
    world.target.patch = patch
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_22_a_403_in_mid_rollout_stops_the_promoter_and_resume_goes_on(world: World) -> None:
    world.start()

    def forbidden(method: Any) -> None:
        if method == "patch" and world.clock.now_s > 1100:
            raise Denied("403")

    world.target.before = forbidden
    with pytest.raises(Denied):
        world.promoter().drive()
    world.target.before = lambda method: None
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_22_a_token_that_expired_on_the_rollback_is_no_silent_success(world: World, behaviour: type[Behaviour]) -> None:
    world.start()
    world.when(30, lambda: world.crash("v8"))

    def expired(method: Any) -> None:
        if "v8" in world.target.unready and method in ("patch", "route"):
            raise Denied("401: token expired")

    world.target.before = expired
    with pytest.raises(Denied, match="token expired"):
        world.promoter().drive()
    world.target.before = lambda method: None
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK


def test_22_a_rollback_without_the_right_to_patch_the_deployment_still_saves_the_callers(world: World) -> None:
    world.start()
    world.when(30, lambda: world.crash("v8"))

    def expired(method: Any) -> None:
        if "v8" in world.target.unready and method == "patch":
            raise Denied("403: seldondeployments patch")

    world.target.before = expired
    with pytest.raises(Denied):
        world.promoter().drive()
    assert world.target.mesh_weights == {"v7": 100}


def test_22_an_api_that_fails_now_and_then_during_a_rollback_is_asked_again(world: World) -> None:
    world.start()
    world.when(30, lambda: world.crash("v8"))
    calls = []

    def flaky(method: Any) -> None:
        calls.append(method)
        if "v8" in world.target.unready and len(calls) % 3 == 0:
            raise Unavailable("503")

    world.target.before = flaky
    assert world.promoter().drive().state.phase is Phase.ROLLED_BACK


def test_24_a_jump_of_the_wall_clock_changes_nothing(make_world: type[World]) -> None:
    plain, jumped = make_world(), make_world()
    jumped.start()
    jumped.when(30, lambda: setattr(jumped.clock, "skew_s", 3600.0 * 24 * 365))
    first = plain.run().state
    second = jumped.promoter().drive().state
    assert second.phase is Phase.SUCCEEDED
    assert abs(jumped.clock.now_s - plain.clock.now_s) < 30
    assert first.phase is second.phase


def test_24_a_laptop_that_sleeps_for_an_hour_has_watched_nothing_meanwhile(make_world: type[World]) -> None:
    """The hour must fill no step: what nobody watched is no evidence of time."""
    plan = replace(make_world().plan, watch_held_s=10_000)
    plan = replace(plan, steps=tuple(replace(step, min_duration_s=300, max_duration_s=3000) for step in plan.steps))
    world = make_world(plan=plan)
    world.start()
    world.when(10, lambda: setattr(world.clock, "now_s", world.clock.now_s + 3600))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    at_10 = [record for record in world.diary.records if record.weights_percent["v8"] == 10]
    gaps = [after.at_s - before.at_s for before, after in itertools.pairwise(at_10)]
    assert sum(gap for gap in gaps if gap < 60) >= 280
