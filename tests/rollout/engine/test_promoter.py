"""The loop, from the first patch to the last, in a world of one dictionary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Never

import pytest

from rollout.analysis.verdict import OnDoubt
from rollout.engine.session import Session
from rollout.engine.start import Release, start
from rollout.engine.state import COMMAND, PREVIOUS, STATE, Command, Phase
from rollout.errors import StateError, Unavailable
from rollout.plan.plan import Step
from tests.support.rollout_world import Behaviour, Traffic, World, manifest
from tests.support.targets.memory import MemoryTarget


def test_a_healthy_version_climbs_every_step_and_the_old_predictor_goes(world: World) -> None:
    outcome = world.run()
    assert outcome.state.phase is Phase.SUCCEEDED, outcome.state.message
    assert world.predictors == ["v8"]
    assert world.target.mesh_weights == {"v8": 100}
    assert world.target.forgotten == ["v7"]
    changes = [event for event in world.diary.events if event != "Analysing"]
    assert changes == ["WaitingForCanary", *["WeightsRaised"] * 3, "Baking", "Baked", "Promoted"]
    seen = [record.weights_percent["v8"] for record in world.diary.records]
    assert sorted(set(seen)) == [0, 10, 30, 50, 100]
    assert seen == sorted(seen)


def test_no_pod_of_either_version_restarts(world: World) -> None:
    """Nothing of a predictor but its traffic changes while it exists: pods are made anew for anything else."""
    bodies: dict[str, set[str]] = {}
    apply = world.target.edit

    def watch(manifest: Any) -> None:
        for predictor in manifest["spec"]["predictors"]:
            body = repr(sorted((key, value) for key, value in predictor.items() if key != "traffic"))
            bodies.setdefault(predictor["name"], set()).add(body)
        apply(manifest)

    world.target.edit = watch
    world.run()
    assert {name: len(variants) for name, variants in bodies.items()} == {"v7": 1, "v8": 1}


def test_events_are_typed_and_reach_the_audit_trail(world: World) -> None:
    world.run()
    reasons = [event.reason for event in world.target.events]
    assert reasons[-1] == "Promoted"
    assert "Baking" in reasons
    assert all(event.type == "Normal" for event in world.target.events)


def test_a_bad_version_is_rolled_back_and_its_predictor_removed(world: World, behaviour: type[Behaviour]) -> None:
    world.start()
    world.traffic.behaviour["v8"] = behaviour(errors=0.2)
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert outcome.state.rollback_stage == "weights"
    assert world.target.forgotten == ["v8"]
    failed = next(record for record in world.diary.records if record.event == "GateFailed")
    assert (failed.weights_percent, failed.mesh_percent) == ({"v7": 100, "v8": 0}, {"v7": 90, "v8": 10})
    assert "errors" in outcome.state.message
    assert world.predictors == ["v7"]
    assert world.target.mesh_weights == {"v7": 100}
    assert max(record.weights_percent["v8"] for record in world.diary.records) == 10
    assert {event.type for event in world.target.events if event.reason in ("GateFailed", "RolledBack")} == {"Warning"}


def test_a_failed_canary_may_be_kept_at_0_percent(make_world: type[World], behaviour: type[Behaviour]) -> None:
    world = make_world(plan=replace(make_world().plan, keep_failed_canary=True))
    world.traffic.behaviour["v8"] = behaviour(errors=0.5)
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.predictors == ["v7", "v8"]
    assert world.target.mesh_weights == {"v7": 100, "v8": 0}


def test_a_manual_gate_waits_for_a_person(make_world: type[World]) -> None:
    plan = make_world().plan
    world = make_world(plan=replace(plan, steps=(Step(50, 30, 600, 100, manual=True), plan.steps[-1])))
    held = world.run()
    assert held.state.phase is Phase.PAUSED
    assert held.state.reason == "ManualGate"
    assert world.target.mesh_weights == {"v7": 50, "v8": 50}
    assert world.promoter().drive(Command.PROMOTE).state.phase is Phase.SUCCEEDED


def test_a_word_left_in_the_annotation_opens_the_gate_of_a_running_promoter(make_world: type[World]) -> None:
    plan = make_world().plan
    world = make_world(plan=replace(plan, steps=(Step(50, 30, 600, 100, manual=True), plan.steps[-1])))
    world.start()
    session = Session(world.target, world.clock)
    world.clock.after(100, lambda: session.send(Command.PROMOTE))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert COMMAND not in world.target.read().deployment.metadata.annotations


def test_a_pause_keeps_the_weights_and_still_rolls_a_bad_version_back(world: World, behaviour: type[Behaviour]) -> None:
    world.start()
    session = Session(world.target, world.clock)
    world.when(10, lambda: session.send(Command.PAUSE))
    paused = world.promoter().drive()
    assert (paused.state.phase, paused.state.canary_percent) == (Phase.PAUSED, 10)
    world.traffic.behaviour["v8"] = behaviour(errors=0.5)
    assert world.promoter().drive().state.phase is Phase.ROLLED_BACK


def test_promote_full_skips_the_analysis_and_still_bakes(world: World, behaviour: type[Behaviour]) -> None:
    world.traffic.behaviour["v8"] = behaviour(slow=0.02)
    world.start()
    session = Session(world.target, world.clock)
    world.when(10, lambda: session.send(Command.PROMOTE_FULL))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert {record.weights_percent["v8"] for record in world.diary.records} == {0, 10, 100}
    baked_s = [record.at_s for record in world.diary.records if record.step == world.plan.last]
    assert baked_s[-1] - baked_s[0] >= world.plan.steps[-1].min_duration_s


def test_undo_during_the_bake_goes_back_at_once(world: World) -> None:
    world.start()
    session = Session(world.target, world.clock)
    world.when(100, lambda: session.send(Command.ABORT))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_undo_after_the_end_brings_the_deleted_predictor_back(world: World) -> None:
    before = world.target.read().manifest["spec"]["predictors"][0]
    world.run()
    assert PREVIOUS in world.target.read().deployment.metadata.annotations
    session = Session(world.target, world.clock)
    session.begin(lambda: session.prepare_undo(world.plan))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert world.predictors == ["v7"]
    after = world.target.read().manifest["spec"]["predictors"][0]
    assert {**before, "traffic": 100} == {**after, "traffic": 100}


@pytest.mark.parametrize("replicas", [1, 2])
def test_undo_from_a_version_that_crash_loops_replaces_it(replicas: int) -> None:
    """None of its pods is ready, so the mesh would follow no weights as long as it is there."""
    world = World()
    world.target = MemoryTarget(manifest(), world.clock, starts_in_s=12, replicas=replicas)
    world.traffic = Traffic(world.target, world.clock)
    assert world.run().state.phase is Phase.SUCCEEDED
    world.crash("v8")
    session = Session(world.target, world.clock)
    session.begin(lambda: session.prepare_undo(world.plan))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert "Replaced" in world.diary.events
    assert world.predictors == ["v7"]
    assert world.target.read().mesh_weights == {"v7": 100}
    assert world.target.read().readiness["v7"].available == replicas


def test_undo_waits_for_the_pods_of_the_version_that_returns_before_it_removes_a_broken_one(world: World) -> None:
    world.run()
    world.crash("v8")
    world.target.room["v7"] = 0
    session = Session(world.target, world.clock)
    session.begin(lambda: session.prepare_undo(world.plan))
    world.clock.after(60, world.target.room.clear)
    seen: list[list[str]] = []
    world.clock.after(50, lambda: seen.append(world.predictors))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert seen == [["v8", "v7"]]
    assert world.predictors == ["v7"]


def test_a_run_from_a_version_that_is_not_ready_is_still_refused(world: World) -> None:
    world.crash("v7")
    with pytest.raises(StateError, match="not ready itself"):
        world.start()


def test_undo_without_a_version_to_return_to_says_so(world: World) -> None:
    with pytest.raises(StateError, match="remembers no earlier version"):
        Session(world.target, world.clock).prepare_undo(world.plan)


def test_a_second_rollout_is_refused_while_one_is_under_way(world: World) -> None:
    world.start()
    with pytest.raises(StateError, match=r"two predictors|under way"):
        start(world.target.read(), Release("v9", image="churn:9"), world.plan, world.clock)


def test_two_rollouts_follow_each_other(world: World) -> None:
    world.run()
    world.start(Release("v9", image="churn:9"))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert world.predictors == ["v9"]


def test_a_rollout_that_is_over_cannot_be_resumed(world: World) -> None:
    world.run()
    with pytest.raises(StateError, match="is over"):
        world.promoter().drive()


def test_sigterm_holds_and_resume_goes_on(world: World) -> None:
    world.start()
    world.when(30, lambda: setattr(world, "stopped", True))
    outcome = world.promoter().drive()
    assert outcome.interrupted
    assert outcome.state.canary_percent == 30
    world.stopped = False
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_sigterm_rolls_back_where_configured(make_world: type[World]) -> None:
    world = make_world(plan=replace(make_world().plan, on_sigterm=OnDoubt.ROLLBACK))
    world.start()
    world.when(30, lambda: setattr(world, "stopped", True))
    outcome = world.promoter().drive()
    assert outcome.interrupted
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert world.target.mesh_weights == {"v7": 100}


def test_an_api_server_that_comes_back_is_waited_for(world: World) -> None:
    world.start()

    def outage() -> None:
        world.target.before = _down
        world.clock.after(60, lambda: setattr(world.target, "before", lambda method: None))

    def _down(method: Any) -> Never:
        raise Unavailable("503")

    world.when(30, outage)
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_an_api_server_that_stays_away_ends_the_promoter_and_not_the_rollout(world: World) -> None:
    world.start()

    def gone(method: Any) -> None:
        if world.clock.now_s > 1060:
            raise Unavailable("503")

    world.target.before = gone
    with pytest.raises(Unavailable):
        world.promoter().drive()
    world.target.before = lambda method: None
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_a_write_whose_answer_was_lost_is_recognised_as_our_own(world: World) -> None:
    world.start()
    lost: list[Any] = []
    patch = world.target.patch

    def flaky(operations: Any, *, dry_run: Any = False) -> Any:
        result = patch(operations, dry_run=dry_run)
        if len(lost) < 40 and len(lost) % 2 == 0:
            lost.append(1)
            raise Unavailable("the answer did not come in time")
        lost.append(0)
        return result

    world.target.patch = flaky
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_the_annotation_is_small(world: World) -> None:
    world.run()
    annotations = world.target.read().deployment.metadata.annotations
    assert len(annotations[STATE]) < 12_000  # all annotations of an object together may have 262,144 bytes


def test_a_word_that_was_left_while_no_promoter_ran_is_acted_on_by_the_next(make_world: type[World]) -> None:
    plan = make_world().plan
    world = make_world(plan=replace(plan, steps=(Step(50, 30, 600, 100, manual=True), plan.steps[-1])))
    assert world.run().state.reason == "ManualGate"
    Session(world.target, world.clock).send(Command.PROMOTE)
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_a_gate_may_be_opened_before_its_step_has_passed(make_world: type[World]) -> None:
    plan = make_world().plan
    world = make_world(plan=replace(plan, steps=(Step(50, 30, 600, 100, manual=True), plan.steps[-1])))
    world.start()
    session = Session(world.target, world.clock)
    world.when(50, lambda: session.send(Command.PROMOTE))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert "ManualGate" not in world.diary.events


def test_sigterm_during_a_pause_does_not_end_the_pause(world: World) -> None:
    world.start()
    session = Session(world.target, world.clock)
    world.when(10, lambda: session.send(Command.PAUSE))
    world.when(10, lambda: world.clock.after(20, lambda: setattr(world, "stopped", True)))
    assert world.promoter().drive().interrupted
    world.stopped = False
    outcome = world.promoter().drive()
    assert (outcome.state.phase, outcome.state.canary_percent) == (Phase.PAUSED, 10)
