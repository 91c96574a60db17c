"""Capacity before weight: pods for a share are there before the requests, and given back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rollout.engine.capacity import pods_needed
from rollout.engine.observation import Observation
from rollout.engine.rules import decide
from rollout.engine.session import Session
from rollout.engine.state import Command, Phase, RolloutState, Traffic
from rollout.errors import StateError
from rollout.manifest.parsing import parse
from rollout.manifest.predictor import HpaSpec, Predictor
from rollout.plan.plan import Plan, PodCapacity, Step
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


def measured_world(pods: int, *, most: int = 20, pod_rps: float = 21.0, target_percent: int = 50) -> World:
    """A world of 100 requests/s whose plan has a pod's capacity, and whose autoscalers aim at target_percent of it."""
    world = world_of(pods, most=most)
    world.plan = replace(world.plan, capacity=PodCapacity(pod_rps))
    target = {"type": "Utilization", "averageUtilization": target_percent}
    scaler = {
        "minReplicas": pods,
        "maxReplicas": most,
        "metricsv2": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    world.edit(lambda document: document["spec"]["predictors"][0]["componentSpecs"][0].update(hpaSpec=scaler))
    return world


def test_the_pods_of_a_share_follow_from_the_traffic_the_measured_capacity_and_the_autoscalers_target() -> None:
    world = measured_world(2)  # two pods serve 100 requests/s; 21 x 50 % = 10.5 requests/s of a pod are to be used
    world.start()
    seen = watch(world)
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED
    least = {share: min(pods for percent, pods, _ in seen if percent == share) for share in (10, 30, 50, 100)}
    assert (least[30], least[50], least[100]) == (3, 5, 10)
    said = [record.message for record in world.diary.records if record.event == "WaitingForCapacity"]
    assert any("v8 has 3 of the 5 ready pods that 50 % need (callers ask for 100 requests/s" in one for one in said)
    assert minimum(world, "v8") == 2  # as stable's was


def test_stable_has_the_pods_for_all_requests_before_a_weight_rises_and_while_it_idles() -> None:
    world = measured_world(2)
    world.start()
    seen = watch(world)
    world.when(50, lambda: world.traffic.behaviour.update(v8=Behaviour(errors=0.5)))
    assert world.promoter().drive().state.phase is Phase.ROLLED_BACK
    assert min(stable for percent, _, stable in seen if percent >= 30) == 10
    assert minimum(world, "v7") == 2


def test_fewer_pods_than_stables_share_are_enough_where_the_measurement_says_so() -> None:
    world = measured_world(10, pod_rps=200)  # ten pods, of which one could serve everything
    world.start()
    world.edit(lambda document: document["spec"]["predictors"][1]["componentSpecs"][0]["hpaSpec"].update(minReplicas=1))
    world.target.room["v8"] = 1
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED


def test_more_traffic_in_a_step_is_no_unready_canary() -> None:
    world = measured_world(2, pod_rps=101)
    world.start()
    world.when(50, lambda: setattr(world.traffic, "per_s", 500.0))
    world.target.room = {"v7": 5, "v8": 5}
    outcome = world.promoter().drive()
    assert (outcome.state.phase, outcome.state.reason) == (Phase.HELD, "NoCapacity")
    assert outcome.state.canary_percent == 50
    assert "v7 has 5 of the 10 ready pods that all requests need" in outcome.state.message


def test_a_rollout_that_is_held_for_pods_asks_for_more_when_the_traffic_grows() -> None:
    world = measured_world(2, pod_rps=41)
    world.plan = replace(world.plan, watch_held_s=10_000.0)
    world.start()
    world.target.room = {"v8": 2}
    world.when(30, lambda: world.clock.after(400, lambda: setattr(world.traffic, "per_s", 250.0)))
    world.when(30, lambda: world.clock.after(600, world.target.room.clear))
    outcome = world.promoter().drive()
    assert outcome.state.phase is Phase.SUCCEEDED, outcome.state.message
    assert "NoCapacity" in world.diary.events


def test_copies_are_no_traffic_of_callers() -> None:
    world = measured_world(2, pod_rps=400)
    world.plan = replace(world.plan, steps=(Step(0, name="shadow", mirror_percent=100), *world.plan.steps))
    world.start()
    states: list[RolloutState] = []
    world.diary.notify = lambda record, state: states.append(state)
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    rates = [state.traffic.rps for state in states if state.traffic.rps]
    assert min(rates) > 85
    assert max(rates) < 105


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        ({"type": "Resource", "resource": {"name": "cpu", "targetAverageUtilization": 60}}, 60),
        ({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 70}}}, 70),
        ({"type": "Resource", "resource": {"name": "memory", "targetAverageUtilization": 60}}, 100),
        ({"type": "Pods", "pods": {"metricName": "requests", "targetAverageValue": "10"}}, 100),
    ],
)
def test_the_share_that_is_used_is_the_autoscalers_target_unless_the_plan_has_one(
    metric: dict[str, Any], found: int
) -> None:
    predictor = parse(scaled_manifest(2, 20)).stable
    (component,) = predictor.component_specs
    scaler = HpaSpec.model_validate({"minReplicas": 2, "maxReplicas": 20, "metrics": [metric]})
    predictor = predictor.but(component_specs=(component.but(hpa_spec=scaler),))
    state = RolloutState("id", replace(PLAN, capacity=PodCapacity(100)), "v7", "v8", traffic=Traffic(10_000, 10))
    assert pods_needed(state, predictor, 100) == -(-1000 // found)
    own = state.but(plan=replace(PLAN, capacity=PodCapacity(100, target_utilisation_percent=100)))
    assert pods_needed(own, predictor, 100) == 10


def test_without_known_traffic_the_share_is_that_of_stables_pods() -> None:
    plan = replace(PLAN, capacity=PodCapacity(1))
    for traffic in (Traffic(), Traffic(500, 5), Traffic(0, 60)):
        assert pods_needed(RolloutState("id", plan, "v7", "v8", stable_pods=10, traffic=traffic), None, 30) == 3


def test_pods_are_asked_for_after_a_step_that_was_longer_than_the_deadline_for_them() -> None:
    world = world_of(10)
    longer_s = world.plan.ready_deadline_s + 60
    world.plan = replace(
        world.plan,
        steps=(replace(world.plan.steps[0], min_duration_s=longer_s, max_duration_s=9e9), *world.plan.steps[1:]),
    )
    world.start()
    world.edit(lambda document: document["spec"]["predictors"][1]["componentSpecs"][0]["hpaSpec"].update(minReplicas=1))
    assert world.promoter().drive().state.phase is Phase.SUCCEEDED
    assert "NoCapacity" not in world.diary.events
