"""The contract suite of all targets of a deployment; a fixture named `scene` gives the target."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from rollout.engine.state import RolloutState, encode
from rollout.errors import Conflict, Rejected, Unavailable
from rollout.plan.plan import Plan
from rollout.targets.target import Event, EventType, LeaseRecord

WEIGHT_OF_V7 = "/spec/predictors/0/traffic"


def predictor(scene: Any, name: Any, **changes: Any) -> Any:
    """The operation that adds a predictor like v7 at 0 %."""
    body = copy.deepcopy(scene.target.read().manifest["spec"]["predictors"][0])
    return {"op": "add", "path": "/spec/predictors/-", "value": body | {"name": name, "traffic": 0} | changes}


def add_v8(scene: Any) -> None:
    scene.target.patch([{"op": "add", "path": WEIGHT_OF_V7, "value": 100}, predictor(scene, "v8")])


def weights(v7: Any, v8: Any) -> Any:
    return [
        {"op": "add", "path": WEIGHT_OF_V7, "value": v7},
        {"op": "add", "path": "/spec/predictors/1/traffic", "value": v8},
    ]


def mesh(scene: Any, **wanted: Any) -> None:
    scene.until(lambda: scene.target.read().mesh_weights == wanted)


class Contract:
    def test_a_lone_predictor_is_ready_and_gets_everything(self, scene: Any) -> None:
        snapshot = scene.until(lambda: (seen := scene.target.read()).available and seen.mesh_weights and seen)
        assert snapshot.deployment.name == "churn"
        assert snapshot.readiness["v7"].ready
        assert snapshot.mesh_weights == {"v7": 100}
        assert snapshot.deployment.metadata.resource_version

    def test_a_new_predictor_has_a_route_at_0_percent_only_when_it_is_ready(self, scene: Any) -> None:
        mesh(scene, v7=100)
        scene.unready("v8", True)
        add_v8(scene)
        scene.until(lambda: "v8" in (seen := scene.target.read()).readiness and not seen.readiness["v8"].ready)
        assert scene.target.read().mesh_weights == {"v7": 100}
        scene.unready("v8", False)
        mesh(scene, v7=100, v8=0)
        scene.until(lambda: scene.target.read().readiness["v8"].ready)  # the status is written after the mesh

    def test_weights_reach_the_mesh_in_one_patch(self, scene: Any) -> None:
        add_v8(scene)
        mesh(scene, v7=100, v8=0)
        snapshot = scene.target.patch(weights(70, 30))
        assert snapshot.deployment.traffic() == {"v7": 70, "v8": 30}
        mesh(scene, v7=70, v8=30)

    def test_weights_are_frozen_while_a_predictor_is_unready_and_its_removal_frees_them(self, scene: Any) -> None:
        add_v8(scene)
        mesh(scene, v7=100, v8=0)
        scene.target.patch(weights(70, 30))
        mesh(scene, v7=70, v8=30)
        scene.unready("v8", True)
        scene.until(lambda: not scene.target.read().readiness["v8"].ready)
        scene.target.patch(weights(100, 0))
        assert scene.target.read().deployment.traffic() == {"v7": 100, "v8": 0}
        for _ in range(10):
            assert scene.target.read().mesh_weights == {"v7": 70, "v8": 30}
            scene.pause()
        scene.target.patch([{"op": "remove", "path": "/spec/predictors/1"}])
        mesh(scene, v7=100)

    def test_the_mesh_can_be_written_past_the_operator(self, scene: Any) -> None:
        add_v8(scene)
        mesh(scene, v7=100, v8=0)
        scene.target.patch(weights(70, 30))
        mesh(scene, v7=70, v8=30)
        scene.unready("v8", True)
        scene.until(lambda: not scene.target.read().readiness["v8"].ready)
        scene.target.route({"v7": 100})
        routed = scene.until(lambda: (found := scene.target.read().mesh_weights).get("v7") == 100 and found)
        assert routed.get("v8", 0) == 0

    def test_a_dead_operator_refuses_every_patch_and_the_mesh_can_be_written(self, scene: Any) -> None:
        add_v8(scene)
        mesh(scene, v7=100, v8=0)
        scene.target.patch(weights(70, 30))
        mesh(scene, v7=70, v8=30)
        scene.until(lambda: scene.target.read().available)
        scene.operator_dead(True)
        for dry_run in (False, True):
            with pytest.raises(Unavailable, match="failed calling webhook"):
                scene.target.patch(weights(100, 0), dry_run=dry_run)
        scene.unready("v8", True)
        for _ in range(5):
            assert scene.target.read().available  # out of date: no operator writes the status
            scene.pause()
        scene.target.route({"v7": 100})
        routed = scene.until(lambda: (found := scene.target.read().mesh_weights).get("v7") == 100 and found)
        assert routed.get("v8", 0) == 0
        scene.target.publish(Event(EventType.WARNING, "Rollback", "past the operator"))
        scene.target.write_lease(LeaseRecord("somebody", 15, 1_800_000_000.0, 1))
        scene.unready("v8", False)
        scene.operator_dead(False)
        mesh(scene, v7=70, v8=30)

    def test_a_shadow_gets_copies_and_no_weight_and_can_become_a_canary(self, scene: Any) -> None:
        first = {"op": "add", "path": WEIGHT_OF_V7, "value": 100}
        scene.target.patch([first, predictor(scene, "v8", shadow=True, traffic=100)])
        scene.until(lambda: scene.target.read().mesh_mirrors == {"v8": 100})
        snapshot = scene.target.read()
        assert snapshot.mesh_weights == {"v7": 100}
        assert snapshot.addresses["v8"].url.startswith("http://")
        scene.target.patch([{"op": "remove", "path": "/spec/predictors/1/shadow"}, *weights(90, 10)])
        mesh(scene, v7=90, v8=10)
        assert scene.target.read().mesh_mirrors == {}

    def test_a_patch_whose_test_does_not_hold_changes_nothing(self, scene: Any) -> None:
        before = scene.target.read().manifest["spec"]
        label = {"op": "add", "path": "/spec/predictors/0/labels", "value": {"changed": "yes"}}
        with pytest.raises(Conflict, match=r"/metadata/name"):
            scene.target.patch([label, {"op": "test", "path": "/metadata/name", "value": "another"}])
        with pytest.raises(Conflict):
            scene.target.patch([{"op": "test", "path": "/metadata/annotations/nobody~1wrote", "value": "this"}])
        assert scene.target.read().manifest["spec"] == before

    def test_what_the_webhook_refuses_is_refused_and_changes_nothing(self, scene: Any) -> None:
        add_v8(scene)
        with pytest.raises(Rejected, match="Traffic must sum to 100 for multiple predictors"):
            scene.target.patch(weights(70, 20))
        with pytest.raises(Rejected):
            scene.target.patch(weights(70, 20), dry_run=True)
        assert scene.target.read().deployment.traffic() == {"v7": 100, "v8": 0}

    def test_a_patch_that_cannot_be_applied_is_refused(self, scene: Any) -> None:
        with pytest.raises(Rejected):
            scene.target.patch([{"op": "remove", "path": "/spec/predictors/7"}])

    def test_a_dry_run_is_checked_in_full_and_stores_nothing(self, scene: Any) -> None:
        before = scene.target.read().manifest["spec"]
        operations = [{"op": "add", "path": WEIGHT_OF_V7, "value": 100}, predictor(scene, "v8")]
        assert set(scene.target.patch(operations, dry_run=True).deployment.traffic()) == {"v7", "v8"}
        assert scene.target.read().manifest["spec"] == before
        with pytest.raises(Rejected):
            scene.target.patch([{"op": "remove", "path": "/spec/predictors/7"}], dry_run=True)

    def test_annotations_are_kept_to_the_letter(self, scene: Any) -> None:
        path = "/metadata/annotations/rollout.churn-serving~1state"
        plan = Plan()
        text = encode(RolloutState("id", plan, "v7", "v8", message='ü <b> & "quoted" \\ \n', nonce="a.1"))
        empty = {"op": "add", "path": "/metadata/annotations", "value": {}}  # an API server stores no empty one
        scene.target.patch([empty, {"op": "add", "path": path, "value": text}])
        assert scene.target.read().deployment.metadata.annotations["rollout.churn-serving/state"] == text
        scene.target.patch([{"op": "test", "path": path, "value": text}, {"op": "remove", "path": path}])
        assert "rollout.churn-serving/state" not in scene.target.read().deployment.metadata.annotations

    def test_an_event_is_taken(self, scene: Any) -> None:
        scene.target.publish(Event(EventType.WARNING, "GateFailed", "errors: 3 % against 1 %"))
        scene.target.publish(Event(EventType.NORMAL, "Promoted", "x" * 5000))  # longer than a note may be

    def test_a_lease_is_compared_and_swapped(self, scene: Any) -> None:
        assert scene.target.read_lease() == LeaseRecord()
        written = scene.target.write_lease(LeaseRecord("first", 15, 1_800_000_000.25, 1, "", 1_799_999_000.5))
        assert scene.target.read_lease() == written
        assert (written.holder, written.duration_s, written.transitions) == ("first", 15, 1)
        assert written.renewed_at_s == pytest.approx(1_800_000_000.25, abs=1e-3)
        assert written.acquired_at_s == pytest.approx(1_799_999_000.5, abs=1e-3)
        renewed = scene.target.write_lease(replace(written, renewed_at_s=1_800_000_005.0))
        assert renewed.version != written.version
        with pytest.raises(Conflict):
            scene.target.write_lease(replace(written, holder="second"))
        with pytest.raises(Conflict):
            scene.target.write_lease(LeaseRecord("third", 15, 1_800_000_005.0, 1))
        freed = scene.target.write_lease(replace(renewed, holder=""))
        assert (freed.holder, scene.target.read_lease().holder) == ("", "")
