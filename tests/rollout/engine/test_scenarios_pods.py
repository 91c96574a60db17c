"""Scenarios 1, 2, 3, 19: pods that are not there when they should be. Weights freeze while any of them is unready."""

from __future__ import annotations

from typing import Any

from rollout.engine.state import Phase
from rollout.errors import Denied
from tests.support.rollout_world import World


def test_1_a_canary_that_crash_loops_at_30_percent_is_removed_because_weights_are_frozen(world: World) -> None:
    world.start()
    world.when(30, lambda: world.crash("v8"))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert outcome.state.rollback_stage == "removal"
    assert world.predictors == ["v7"]
    assert world.target.mesh_weights == {"v7": 100}


def test_2_while_stable_scales_up_too_the_mesh_itself_is_written(world: World) -> None:
    world.start()
    world.when(30, lambda: world.target.unready.update({"v7", "v8"}))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert outcome.state.rollback_stage == "mesh"
    assert world.target.mesh_weights == {"v7": 100}
    world.target.unready.clear()
    assert world.target.read().mesh_weights == {"v7": 100}  # the operator agrees when it writes again


def test_2_a_stable_that_scales_up_alone_delays_and_does_not_roll_back(world: World) -> None:
    world.start()
    world.when(10, lambda: world.target.unready.add("v7"))
    world.when(10, lambda: world.clock.after(200, world.target.unready.clear))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert "WaitingForMesh" in world.diary.events


def test_2_a_mesh_that_never_follows_is_held_with_the_reason(world: World) -> None:
    world.start()
    world.when(10, lambda: world.target.unready.add("v7"))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert outcome.state.reason == "MeshFrozen"
    assert "every replica" in outcome.state.message
    assert "does not have the weights v7 70 %, v8 30 % after" in outcome.state.message
    assert world.target.mesh_weights == {"v7": 90, "v8": 10}


def test_3_a_canary_that_never_gets_ready_gets_no_request_and_goes_at_the_deadline(world: World) -> None:
    world.target.unready.add("v8")
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert outcome.state.message.startswith("v8 was not ready after 120 s at 0 %")
    assert {record.weights_percent["v8"] for record in world.diary.records} == {0}
    assert world.predictors == ["v7"]
    waited_s = world.diary.records[-1].at_s - world.diary.records[0].at_s
    assert 120 <= waited_s <= 140


def test_19_a_canary_that_dies_before_it_can_count_is_caught_by_readiness(make_world: type[World]) -> None:
    world = make_world()
    world.start()
    world.traffic.share = lambda weights: {"v7": 1.0}  # nothing of v8 is ever counted
    world.when(10, lambda: world.target.unready.add("v8"))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert "v8 is unready" in outcome.state.message


def test_a_short_unreadiness_is_waited_for(world: World) -> None:
    world.start()
    world.when(30, lambda: world.target.unready.add("v8"))
    world.when(30, lambda: world.clock.after(12, world.target.unready.clear))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_when_no_stage_works_the_rollout_has_failed_and_says_what_to_do_by_hand(world: World) -> None:
    def forbidden(method: Any) -> None:
        if method == "route":
            raise Denied("virtualservices patch: 403")

    world.target.before = forbidden
    world.start()
    world.when(30, lambda: world.target.unready.update({"v7", "v8"}))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.FAILED
    for part in ("weights:", "removal:", "mesh: virtualservices patch: 403", "By hand"):
        assert part in outcome.state.message


def test_the_first_predictor_keeps_its_place_so_ports_and_emissary_weights_do_not_move(world: World) -> None:
    places = []
    apply = world.target.edit

    def watch(manifest: Any) -> None:
        places.append([predictor["name"] for predictor in manifest["spec"]["predictors"]])
        apply(manifest)

    world.target.edit = watch
    world.run()
    assert [names for i, names in enumerate(places) if i == 0 or names != places[i - 1]] == [["v7", "v8"], ["v8"]]
