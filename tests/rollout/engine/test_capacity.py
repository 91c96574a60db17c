"""Capacity before weight: pods for a share are there before the requests, and given back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rollout.engine.observation import Observation
from rollout.engine.rules import decide
from rollout.engine.session import Session
from rollout.engine.state import Command, Phase, RolloutState
from rollout.errors import StateError
from rollout.manifest.predictor import Predictor
from rollout.plan.plan import Plan, Step
from tests.support.rollout_world import Behaviour, World, manifest
from tests.support.targets.memory import MemoryTarget


def scaled_manifest(low: int, high: int) -> dict[str, Any]:
    document = manifest()
    document["spec"]["predictors"][0]["componentSpecs"][0]["hpaSpec"] = {
        "minReplicas": low, "maxReplicas": high, "metrics": [],
    }  # fmt: skip
    return document


def world_of(pods: int, *, most: int = 20) -> World:
    """A world in which stable has so many pods now, although its autoscaler's minimum is 2."""
    world = World()
    world.target = MemoryTarget(scaled_manifest(pods, most), world.clock, starts_in_s=12.0)
    world.traffic._target = world.target
    return world


def minimum(world: World, name: str) -> int | None:
    found = {one.name: one.component_specs[0].hpa_spec for one in world.target.read().deployment.predictors}[name]
    assert found is not None
    return found.min_replicas


def watch(world: World) -> list[tuple[int, int, int]]:
    """Collect (the canary's percent in the mesh, its ready pods, stable's pods) every second."""
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        snapshot = world.target._look()
        canary, stable = snapshot.readiness.get("v8"), snapshot.readiness.get("v7")
        if canary and stable:
            seen.append((snapshot.mesh_weights.get("v8", 0), canary.available, stable.available))
        world.clock.after(1.0, look)

    world.clock.after(1.0, look)
    return seen


def test_no_weight_is_raised_before_the_canary_has_the_pods_for_it() -> None:
    world = world_of(10)
    world.start()
    assert minimum(world, "v8") == 10  # as stable's, from which it is made
    world.edit(lambda document: document["spec"]["predictors"][1]["componentSpecs"][0]["hpaSpec"].update(minReplicas=1))
    seen = watch(world)
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    assert {percent for percent, _, _ in seen} >= {10, 30, 50, 100}
    assert all(pods >= -(-10 * percent // 100) for percent, pods, _ in seen)
    assert "WaitingForCapacity" in world.diary.events


def test_stable_keeps_its_pods_while_it_gets_fewer_requests_and_they_are_given_back_after_a_rollback() -> None:
    world = world_of(2)
    wanted = world.target._wanted

    def autoscaled(predictor: Predictor) -> int:
        return max(wanted(predictor), 6 if predictor.name == "v7" else 1)

    world.target._wanted = autoscaled
    world.target._pods["v7"] = [float("-inf")] * 6
    world.start()
    assert minimum(world, "v7") == 6
    world.when(30, lambda: world.traffic.behaviour.update(v8=Behaviour(errors=0.5)))
    assert world.promoter().drive().state.phase is Phase.ROLLED_BACK
    assert minimum(world, "v7") == 2


def test_after_a_promotion_the_autoscaler_decides_again_and_undo_starts_with_enough_pods() -> None:
    world = world_of(4)
    world.start()
    world.edit(lambda document: document["spec"]["predictors"][1]["componentSpecs"][0]["hpaSpec"].update(minReplicas=1))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert minimum(world, "v8") == 1
    world.edit(lambda document: document["spec"]["predictors"][0]["componentSpecs"][0]["hpaSpec"].update(minReplicas=5))
    world.target.read()
    world.clock.sleep(20)
    session = Session(world.target, world.clock)
    session.begin(lambda: session.prepare_undo(world.plan))
    assert minimum(world, "v7") == 5
    seen = watch(world)
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert minimum(world, "v7") == 4
    assert world.predictors == ["v7"]
    assert seen


def test_a_canary_that_cannot_get_its_pods_is_held_with_the_reason_and_not_rolled_back() -> None:
    world = world_of(10)
    world.start()
    world.edit(lambda document: document["spec"]["predictors"][1]["componentSpecs"][0]["hpaSpec"].update(minReplicas=1))
    world.target.room["v8"] = 2
    world.target.problems["v8"] = "FailedCreate: exceeded quota: pods=12"
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.HELD
    assert outcome.state.canary_percent == 10
    assert "exceeded quota" in outcome.state.message


def test_the_autoscalers_maximum_bounds_what_is_asked_for() -> None:
    world = world_of(4, most=4)
    world.start()
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED


PLAN = Plan(steps=(Step(10, 10, 100, 50), Step(50, 10, 100, 50), Step(100, 20, 100, 0)))


def looks(*, up_s: float, down_s: float) -> Iterator[bool]:
    """Whether the canary is ready, each second."""
    second = 0
    while True:
        yield second % (up_s + down_s) < up_s
        second += 1


def seconds_to_rollback(up_s: float, down_s: float, limit_s: int = 600) -> tuple[int, str] | None:
    state = RolloutState("id", PLAN, "v7", "v8", step=0, phase=Phase.PROGRESSING)
    for second, ready in zip(range(limit_s), looks(up_s=up_s, down_s=down_s), strict=False):
        decision = decide(state, Observation(dt_s=1, ready=ready, canary_pods=int(ready)))
        if decision.state.phase is Phase.ROLLING_BACK:
            return second, decision.reason
        state = decision.state
    return None


def test_a_canary_that_is_unready_25_of_31_seconds_is_rolled_back() -> None:
    found = seconds_to_rollback(up_s=6, down_s=25)
    assert found is not None
    assert found[0] < 120
    assert found[1] == "CanaryFlapping"


def test_a_pod_that_is_replaced_now_and_then_is_ordinary_life() -> None:
    assert seconds_to_rollback(up_s=290, down_s=20) is None


def test_one_pod_of_ten_that_is_rescheduled_for_minutes_rolls_nothing_back() -> None:
    world = world_of(10)
    world.start()
    world.when(100, lambda: world.target.room.update(v8=9))
    world.when(100, lambda: world.clock.after(120, world.target.room.clear))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_a_canary_that_cannot_start_says_why() -> None:
    world = World()
    world.target.unready.add("v8")
    world.target.problems["v8"] = "container churn: ImagePullBackOff: churn:8 not found"
    outcome = world.run()
    assert outcome.state.phase is Phase.ROLLED_BACK
    assert "ImagePullBackOff: churn:8 not found" in outcome.state.message
    waiting = [record.message for record in world.diary.records if record.event == "WaitingForCanary"]
    assert "ImagePullBackOff" in waiting[0]


def test_a_rollout_does_not_start_on_a_stable_that_is_not_ready_and_says_why() -> None:
    world = World()
    world.target.unready.add("v7")
    world.target.problems["v7"] = "Unschedulable: 0/3 nodes are available"
    with pytest.raises(StateError, match="0/3 nodes are available"):
        world.start()


def test_promote_full_waits_for_the_pods_of_the_last_step() -> None:
    world = world_of(10)
    world.start()
    world.edit(lambda document: document["spec"]["predictors"][1]["componentSpecs"][0]["hpaSpec"].update(minReplicas=1))
    seen = watch(world)
    world.when(10, lambda: Session(world.target, world.clock).send(Command.PROMOTE_FULL))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert all(pods == 10 for percent, pods, _ in seen if percent == 100)
