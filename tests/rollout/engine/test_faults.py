"""Nothing stands between a failed gate and the way back: each test breaks one thing beside a canary that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from rollout.engine.analyst import Analyst
from rollout.engine.announcer import Background, Broadcast, Subscriber
from rollout.engine.lease import Lock
from rollout.engine.promoter import Outcome, Promoter
from rollout.engine.record import Record
from rollout.engine.session import Session
from rollout.engine.start import Release, start
from rollout.engine.state import STATE, Command, Phase, RolloutState
from rollout.errors import (
    Conflict,
    Denied,
    InternalError,
    LeaseHeld,
    NotFound,
    Rejected,
    StateError,
    TargetError,
    Unavailable,
)
from rollout.evidence.source import Reading, Source
from rollout.reporting.webhook import Webhook
from rollout.targets.target import LeaseRecord
from tests.support.programs import GUARD_S
from tests.support.rollout_world import Behaviour, World

BAD = Behaviour(errors=0.5)


def drive(
    world: World, *, subscriber: Subscriber | None = None, source: Source | None = None, command: Command | None = None
) -> Outcome:
    lock = Lock(world.target, world.clock, holder="under-test")
    analyst = Analyst(source or world.traffic)
    return Promoter(world.target, lock, analyst, world.clock, subscriber=subscriber or world.diary).drive(command)


def goes_bad_at(world: World, percent: int, *, then: Callable[[], Any] = lambda: None) -> None:
    def act() -> None:
        world.traffic.behaviour["v8"] = BAD
        then()

    world.when(percent, act)


class FullDisk:
    """A subscriber whose file system is full."""

    def notify(self, record: Record, state: RolloutState) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "subscriber",
    [FullDisk(), Webhook("http://[malformed"), Webhook("no scheme"), Webhook("http://127.0.0.1:9/closed")],
    ids=["full disk", "malformed webhook", "webhook without scheme", "webhook that is closed"],
)
def test_a_subscriber_that_fails_does_not_stop_the_way_back(world: World, subscriber: Subscriber) -> None:
    world.start()
    goes_bad_at(world, 10)
    assert drive(world, subscriber=subscriber).state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_a_subscriber_that_fails_does_not_keep_the_next_one_from_being_notified(world: World) -> None:
    world.start()
    goes_bad_at(world, 10)
    drive(world, subscriber=Broadcast([FullDisk(), world.diary]))
    assert world.diary.events[-2:] == ["GateFailed", "RolledBack"]


def test_the_canary_has_lost_its_requests_before_anybody_is_notified_of_a_failed_gate(world: World) -> None:
    seen: dict[str, Mapping[str, int]] = {}

    class Watcher:
        def notify(self, record: Record, state: RolloutState) -> None:
            seen.setdefault(record.event, world.target.read().deployment.traffic())

    world.start()
    goes_bad_at(world, 10)
    drive(world, subscriber=Watcher())
    assert seen["WeightsRaised"] == {"v7": 90, "v8": 10}
    assert seen["GateFailed"] == {"v7": 100, "v8": 0}


def test_a_slow_subscriber_in_the_background_delays_nothing(world: World) -> None:
    release, got = threading.Event(), []

    class Slow:
        def notify(self, record: Record, state: RolloutState) -> None:
            release.wait(GUARD_S)
            got.append(record.event)

    slow = Background(Slow())
    world.start()
    goes_bad_at(world, 10)
    assert drive(world, subscriber=slow).state.phase is Phase.ROLLED_BACK  # before the first notification has ended
    assert got == []
    release.set()
    slow.close()
    assert got[-1] == "RolledBack"


def test_an_unexpected_error_is_no_traceback_and_the_requests_go_back(world: World) -> None:
    class Broken:
        def sample(self, predictors: Sequence[str]) -> Reading:
            if world.target.mesh_weights.get("v8") == 30:
                raise KeyError("a bug")
            return world.traffic.sample(predictors)

        def close(self) -> None:
            pass

    world.start()
    with pytest.raises(InternalError, match=r"unexpected KeyError: 'a bug'.*All requests go to v7 again"):
        drive(world, source=Broken())
    assert world.target.mesh_weights == {"v7": 100}
    assert world.state is not None
    assert world.state.phase is Phase.ROLLED_BACK


@pytest.mark.parametrize("error", [Denied("403"), NotFound("404"), Rejected("422"), Unavailable("503")])
@pytest.mark.parametrize("method", ["write_lease", "read_lease"])
def test_a_lease_that_cannot_be_used_never_stops_the_way_back(world: World, method: str, error: TargetError) -> None:
    world.start()
    goes_bad_at(world, 10)

    def refused(called: str) -> None:
        if called == method:
            raise error

    world.target.before = refused
    assert drive(world).state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_a_deleted_lease_is_made_again(world: World) -> None:
    world.start()
    world.when(10, lambda: setattr(world.target, "_lease", LeaseRecord()))
    assert drive(world).state.phase is Phase.SUCCEEDED
    assert world.target.read_lease().version != ""


def test_20_seconds_of_403_delay_a_way_back_and_do_not_end_it(world: World) -> None:
    world.start()

    def refuse_for_a_while() -> None:
        def refused(method: str) -> None:
            raise Denied("403: the role binding was replaced")

        world.target.before = refused
        world.clock.after(20, lambda: setattr(world.target, "before", lambda method: None))

    goes_bad_at(world, 30, then=refuse_for_a_while)
    assert drive(world).state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def times_of_routing(world: World) -> list[float]:
    """Return a list that gets the time of each write to the mesh."""
    routed: list[float] = []
    route = world.target.route

    def note_time(weights: Mapping[str, int]) -> None:
        routed.append(world.clock.now_s)
        route(weights)

    world.target.route = note_time
    return routed


def kill_operator(world: World) -> Callable[[], None]:
    return lambda: setattr(world.target, "operator_alive", False)


def test_with_a_dead_operator_the_mesh_is_written_at_once_and_the_message_says_what_is_left(world: World) -> None:
    world.start()
    began: list[float] = []
    goes_bad_at(world, 30, then=kill_operator(world))
    routed = times_of_routing(world)
    world.target.before = lambda method: began.append(world.clock.now_s) if not world.target.operator_alive else None
    with pytest.raises(Unavailable, match=r"All requests go to v7 again.*run `abort` until it succeeds"):
        drive(world)
    assert world.target.mesh_weights == {"v7": 100}
    assert routed[0] - began[0] < 60  # a few windows for the gate, and seconds of patience


def test_an_operator_that_comes_back_finds_the_weights_of_the_rollback(world: World) -> None:
    world.start()
    goes_bad_at(world, 30, then=kill_operator(world))
    goes_bad_at(world, 30, then=lambda: world.clock.after(60, lambda: setattr(world.target, "operator_alive", True)))
    outcome = drive(world)
    assert (outcome.state.phase, outcome.state.rollback_stage) == (Phase.ROLLED_BACK, "mesh")
    assert world.predictors == ["v7"]
    assert world.target.read().mesh_weights == {"v7": 100}


def refuse(world: World) -> Callable[[], None]:
    return lambda: setattr(world.target, "refuses", True)


def test_a_living_operator_that_refuses_every_patch_does_not_keep_the_mesh_from_being_written(world: World) -> None:
    """For 40 s; then the patch is accepted and the rollback recorded."""
    world.start()
    world.target.watches_mesh = False
    mesh: list[Mapping[str, int]] = []
    goes_bad_at(world, 30, then=refuse(world))
    world.when(30, lambda: world.clock.after(35, lambda: mesh.append(dict(world.target.mesh_weights))))
    world.when(30, lambda: world.clock.after(40, lambda: setattr(world.target, "refuses", False)))
    outcome = drive(world)
    assert (outcome.state.phase, outcome.state.rollback_stage) == (Phase.ROLLED_BACK, "mesh")
    assert mesh == [{"v7": 100}]
    assert world.predictors == ["v7"]


def test_an_operator_that_refuses_and_takes_the_mesh_back_is_answered_each_second(world: World) -> None:
    """Nobody can win against it; but it is written again and again, and the end says what is left to do."""
    world.start()
    goes_bad_at(world, 30, then=refuse(world))
    routed = times_of_routing(world)
    with pytest.raises(Rejected, match="send everything to v7 in the VirtualService"):
        drive(world)
    assert len(routed) > 30
    assert max(later - earlier for earlier, later in pairwise(routed)) < 60


def test_abort_works_with_a_dead_operator_even_while_another_promoter_holds_the_lease(world: World) -> None:
    world.start()
    world.when(30, lambda: setattr(world, "stopped", True))
    world.promoter().drive()
    other = Lock(world.target, world.clock, holder="other")
    other.acquire()

    def renew() -> None:
        other.renew()
        world.clock.after(2, renew)

    renew()
    kill_operator(world)()
    Session(world.target, world.clock).send(Command.ABORT)
    with pytest.raises(Unavailable, match="All requests go to v7 again"):
        drive(world, command=Command.ABORT)
    assert world.target.mesh_weights == {"v7": 100}


def test_abort_leaves_the_work_to_a_promoter_that_can_be_given_the_command(world: World) -> None:
    world.start()
    other = Lock(world.target, world.clock, holder="other")
    other.acquire()
    for second in range(2, 20, 2):
        world.clock.after(second, other.renew)
    Session(world.target, world.clock).send(Command.ABORT)
    with pytest.raises(LeaseHeld, match="other drives this rollout"):
        drive(world, command=Command.ABORT)


def test_a_healthy_canary_is_watched_while_the_deployment_cannot_be_written(world: World) -> None:
    """The operator dies at 30 %, and the canary fails long after."""
    world.start()
    world.when(30, kill_operator(world))
    world.when(30, lambda: world.clock.after(90, lambda: world.traffic.behaviour.update(v8=BAD)))
    with pytest.raises(Unavailable, match="All requests go to v7 again"):
        drive(world)
    assert "CannotWrite" in world.diary.events
    assert world.target.mesh_weights == {"v7": 100}


def edit_weights(manifest: dict[str, Any]) -> None:
    for predictor in manifest["spec"]["predictors"]:
        predictor["traffic"] = 50


def edit_stable(manifest: dict[str, Any]) -> None:
    container = manifest["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]
    container["env"] = [{"name": "SERVING_THREADS", "value": "2"}]


@pytest.mark.parametrize("change", [edit_weights, edit_stable], ids=["weights 50/50", "environment of stable"])
def test_a_failing_canary_is_rolled_back_although_somebody_changed_the_deployment(
    world: World, change: Callable[[dict[str, Any]], None]
) -> None:
    world.start()
    goes_bad_at(world, 30, then=lambda: world.edit(change))
    assert drive(world).state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}
    assert world.predictors == ["v7"]


def test_endless_conflicts_do_not_keep_a_failing_canary(world: World) -> None:
    """Somebody writes between each reading and each writing: no patch that tests a version is ever accepted."""
    world.start()
    patch = world.target.patch

    def raced(operations: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> Any:
        tested = {operation["path"] for operation in operations if operation["op"] == "test"}
        if world.traffic.behaviour and not all(path.startswith("/spec/predictors/") for path in tested):
            raise Conflict("the object has been modified")
        return patch(operations, dry_run=dry_run)

    world.target.patch = raced
    goes_bad_at(world, 30)
    assert drive(world).state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_a_writer_that_changes_the_record_all_the_time_loses_against_the_way_back(world: World) -> None:
    """Each patch of the promoter meets a text that is another one than it read; the way back does not ask for it."""
    world.start()
    patch = world.target.patch

    def raced(operations: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> Any:
        if world.traffic.behaviour:
            world.edit(lambda manifest: manifest["metadata"]["annotations"].update({STATE: "{"}))
        return patch(operations, dry_run=dry_run)

    world.target.patch = raced
    goes_bad_at(world, 30)
    assert drive(world).state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_a_pause_that_is_asked_for_while_the_canary_starts_is_kept(world: World) -> None:
    world.start()
    world.clock.after(1, lambda: Session(world.target, world.clock).send(Command.PAUSE))
    outcome = drive(world)
    assert (outcome.state.phase, outcome.state.canary_percent) == (Phase.PAUSED, 0)


def test_promote_full_that_is_asked_for_while_the_canary_starts_is_kept(world: World) -> None:
    world.start()
    world.clock.after(1, lambda: Session(world.target, world.clock).send(Command.PROMOTE_FULL))
    assert drive(world).state.phase is Phase.SUCCEEDED
    assert {record.weights_percent["v8"] for record in world.diary.records} == {0, 100}


@pytest.mark.parametrize("command", [Command.PAUSE, Command.PROMOTE_FULL])
def test_what_a_person_asks_for_during_a_foreign_change_is_done_after_it(world: World, command: Command) -> None:
    def put_back(manifest: dict[str, Any]) -> None:
        manifest["spec"]["predictors"][0]["traffic"], manifest["spec"]["predictors"][1]["traffic"] = 90, 10

    world.start()
    world.when(10, lambda: world.edit(edit_weights))
    world.when(10, lambda: world.clock.after(15, lambda: Session(world.target, world.clock).send(command)))
    world.when(10, lambda: world.clock.after(40, lambda: world.edit(put_back)))
    outcome = drive(world)
    if command is Command.PAUSE:
        assert (outcome.state.phase, outcome.state.canary_percent) == (Phase.PAUSED, 10)
    else:
        assert outcome.state.phase is Phase.SUCCEEDED
        assert {record.weights_percent["v8"] for record in world.diary.records} == {0, 10, 100}


def lose_record(world: World, how: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        annotations = manifest["metadata"]["annotations"]
        if how == "deleted":
            del annotations[STATE]
        elif how == "truncated":
            annotations[STATE] = annotations[STATE][: len(annotations[STATE]) // 2]
        else:
            annotations[STATE] = annotations[STATE].replace('"interval_s":5.0', '"interval_s":1.0')

    world.edit(change)


LOSSES = pytest.mark.parametrize("how", ["deleted", "truncated", "edited"])


@LOSSES
@pytest.mark.parametrize("percent", [30, 100])
def test_abort_works_without_a_record(world: World, how: str, percent: int) -> None:
    world.start()
    world.when(percent, lambda: setattr(world, "stopped", True))
    world.promoter().drive()
    lose_record(world, how)
    session = Session(world.target, world.clock)
    session.send(Command.ABORT)
    outcome = drive(world, command=Command.ABORT)
    assert (outcome.state.phase, outcome.state.stable) == (Phase.ROLLED_BACK, "v7")
    assert world.target.mesh_weights == {"v7": 100}
    assert world.predictors == ["v7"]


@LOSSES
def test_undo_works_without_a_record(world: World, how: str) -> None:
    world.run()
    lose_record(world, how)
    session = Session(world.target, world.clock)
    assert session.last() is None
    session.begin(lambda: session.prepare_undo(world.plan))
    assert drive(world).state.phase is Phase.SUCCEEDED
    assert world.predictors == ["v7"]


@LOSSES
def test_a_promoter_at_work_restores_its_record_and_still_catches_a_failure(world: World, how: str) -> None:
    world.start()
    world.when(30, lambda: lose_record(world, how))
    world.when(50, lambda: world.traffic.behaviour.update(v8=BAD))
    assert drive(world).state.phase is Phase.ROLLED_BACK
    assert "RecordLost" in [event.reason for event in world.target.events]


@pytest.mark.parametrize("how", ["kept", "deleted", "truncated"])
def test_no_message_advises_to_remove_a_predictor_while_a_rollout_may_be_under_way(world: World, how: str) -> None:
    world.start()
    world.when(30, lambda: setattr(world, "stopped", True))
    world.promoter().drive()
    if how != "kept":
        lose_record(world, how)
    with pytest.raises(StateError, match="`abort`") as refused:
        start(world.target.read(), Release("v9", image="churn:9"), world.plan, world.clock)
    assert "remove" not in str(refused.value)
    if how != "kept":
        with pytest.raises(StateError) as refused:
            Session(world.target, world.clock).send(Command.PROMOTE)
