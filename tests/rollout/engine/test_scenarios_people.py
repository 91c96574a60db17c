"""Scenarios 7, 8, 9, 10, 23: somebody else has a hand on the deployment, or a person changes their mind."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.engine.session import Session
from rollout.engine.state import Command, Phase
from rollout.errors import StateError
from tests.support.rollout_world import World


def set_weights(**weights: Any) -> Any:
    def change(manifest: Any) -> None:
        for predictor in manifest["spec"]["predictors"]:
            predictor["traffic"] = weights[predictor["name"]]

    return change


def set_image(name: Any, image: Any) -> Any:
    def change(manifest: Any) -> None:
        for predictor in manifest["spec"]["predictors"]:
            if predictor["name"] == name:
                predictor["componentSpecs"][0]["spec"]["containers"][0]["image"] = image

    return change


def test_7_edited_weights_stop_the_rollout_and_are_left_alone(world: World) -> None:
    world.start()
    world.when(30, lambda: world.edit(set_weights(v7=85, v8=15)))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert outcome.state.reason == "ForeignChange"
    assert "weights are v7 85 %, v8 15 %, this rollout set v7 70 %, v8 30 %" in outcome.state.message
    for choice in ("put it back", "resume --adopt", "abort"):
        assert choice in outcome.state.message
    assert world.target.mesh_weights == {"v7": 85, "v8": 15}


def test_7_weights_that_are_put_back_let_the_rollout_go_on_by_itself(world: World) -> None:
    world.start()
    world.when(30, lambda: world.edit(set_weights(v7=85, v8=15)))
    world.when(15, lambda: world.clock.after(20, lambda: world.edit(set_weights(v7=70, v8=30))))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert "ForeignChange" in world.diary.events


def test_7_adopting_sets_the_steps_weights_again(world: World) -> None:
    world.start()
    world.when(30, lambda: world.edit(set_weights(v7=85, v8=15)))
    assert world.promoter().drive().state.phase is Phase.HELD
    assert world.promoter().drive(Command.ADOPT).state.phase is Phase.SUCCEEDED


def test_8_weights_that_gitops_reverts_again_and_again_hold_again(world: World) -> None:
    world.start()
    world.when(10, lambda: world.edit(set_weights(v7=100, v8=0)))
    assert world.promoter().drive().state.reason == "ForeignChange"
    world.when(10, lambda: world.edit(set_weights(v7=100, v8=0)))
    outcome = world.promoter().drive(Command.ADOPT)
    assert outcome.state.phase is Phase.HELD
    assert "weights are v7 100 %, v8 0 %" in outcome.state.message
    assert "GitOps" in outcome.state.message


def test_9_a_new_canary_image_in_mid_rollout_never_inherits_the_percentage(world: World) -> None:
    world.start()
    world.when(30, lambda: world.edit(set_image("v8", "churn:9")))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert "v8 was churn:8 and is churn:9" in outcome.state.message
    adopted_at = len(world.diary.records)
    assert world.promoter().drive(Command.ADOPT).state.phase is Phase.SUCCEEDED
    again = [record.weights_percent["v8"] for record in world.diary.records[adopted_at:]]
    assert again[0] == 0
    assert sorted(set(again)) == [0, 10, 30, 50, 100]


def test_9_a_changed_environment_is_noticed_as_well(world: World) -> None:
    def change(manifest: Any) -> None:
        container = manifest["spec"]["predictors"][1]["componentSpecs"][0]["spec"]["containers"][0]
        container["env"] = [{"name": "SERVING_THREADS", "value": "2"}]

    world.start()
    world.when(10, lambda: world.edit(change))
    outcome = world.promoter().drive()
    assert "environment of v8" in outcome.state.message


def test_10_reordered_predictors_do_not_matter(world: World) -> None:
    world.start()
    world.when(30, lambda: world.edit(lambda manifest: manifest["spec"]["predictors"].reverse()))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert world.predictors == ["v8"]


def test_10_a_renamed_predictor_stops_the_rollout(world: World) -> None:
    def rename(manifest: Any) -> None:
        manifest["spec"]["predictors"][0]["name"] = "stable"

    world.start()
    world.when(30, lambda: world.edit(rename))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert "predictor v7 is gone" in outcome.state.message
    assert "predictor stable is new" in outcome.state.message
    with pytest.raises(StateError, match="cannot go on without v7"):
        world.promoter().drive(Command.ADOPT)


def test_10_an_abort_after_the_stable_predictor_was_taken_away_fails_loudly(world: World) -> None:
    def drop(manifest: Any) -> None:
        del manifest["spec"]["predictors"][0]
        manifest["spec"]["predictors"][0]["traffic"] = 100

    world.start()
    world.when(30, lambda: world.edit(drop))
    assert world.promoter().drive().state.phase is Phase.HELD
    outcome = world.promoter().drive(Command.ABORT)
    assert outcome.state.phase is Phase.FAILED
    assert "v7 is gone, there is nothing to return to" in outcome.state.message


def test_scaling_by_hand_is_nobodys_business(world: World) -> None:
    def scale(manifest: Any) -> None:
        manifest["spec"]["predictors"][0]["replicas"] = 3

    world.start()
    world.when(30, lambda: world.edit(scale))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


@pytest.mark.parametrize("percent", [10, 100])
def test_23_abort_in_a_step_and_during_the_bake(world: World, percent: int) -> None:
    world.start()
    session = Session(world.target, world.clock)
    world.when(percent, lambda: session.send(Command.ABORT))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert "a person aborted" in outcome.state.message
    assert world.target.mesh_weights == {"v7": 100}


def test_23_abort_between_reading_and_writing_loses_neither(world: World) -> None:
    """The word arrives while a weights patch is on its way: both are kept, and the next look acts on it."""
    world.start()
    said: list[bool] = []
    session, patch = Session(world.target, world.clock), world.target.patch

    def interleaved(operations: Any, *, dry_run: Any = False) -> Any:
        if not said and any(op["path"].endswith("/traffic") for op in operations):
            said.append(True)
            session.send(Command.ABORT)
        return patch(operations, dry_run=dry_run)

    world.target.patch = interleaved
    outcome = world.promoter().drive()
    assert said
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert "a person aborted" in outcome.state.message


def test_23_abort_after_the_end_is_refused_and_names_undo(world: World) -> None:
    world.run()
    with pytest.raises(StateError, match="`undo` brings the version before it back"):
        Session(world.target, world.clock).send(Command.ABORT)
    assert world.predictors == ["v8"]
