"""The patches: whole, guarded, and right wherever the predictors stand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engine.patches import begin, remove, weigh
from rollout.engine.state import Phase, RolloutState
from rollout.errors import Conflict
from rollout.manifest.parsing import parse
from rollout.manifest.predictor import Predictor
from rollout.plan.plan import Plan, Step
from rollout.targets.local_store import apply
from rollout.targets.target import Snapshot
from tests.support.rollout_world import manifest


def snapshot(*names: Any, annotations: Any = None, traffic: Any = None, generation: Any = False) -> Any:
    document = manifest()
    body = document["spec"]["predictors"][0]
    document["spec"]["predictors"] = [
        copy.deepcopy(body) | {"name": name} | ({"traffic": traffic[name]} if traffic else {}) for name in names
    ]
    document["metadata"] |= {"resourceVersion": "5"} | ({"generation": 3} if generation else {})
    if annotations is not None:
        document["metadata"]["annotations"] = annotations
    return Snapshot(document, {}, {})


def state(step: Any = 0, *, steps: Any = (10, 100), **changes: Any) -> Any:
    plan = Plan(steps=tuple(Step(weight) for weight in steps))
    return RolloutState("id", plan, "v7", "v8", step=step, phase=Phase.PROGRESSING, nonce="w.1").but(**changes)


@settings(deadline=None)
@given(
    st.permutations(["v7", "v8"]),
    st.integers(1, 99),
    st.sampled_from([None, {}, {"a/b": "kept"}]),
    st.sampled_from([None, {"v7": 100, "v8": 0}, {"v7": 3, "v8": 97}]),
)
def test_weights_are_set_together_and_sum_to_100_in_any_order(
    names: Any, percent: Any, annotations: Any, traffic: Any
) -> None:
    before = snapshot(*names, annotations=annotations, traffic=traffic)
    after = parse(apply(before.manifest, weigh(before, state(steps=(percent, 100)))))
    assert after.traffic() == {"v7": 100 - percent, "v8": percent}
    assert [one.name for one in after.predictors] == list(names)
    assert set(after.metadata.annotations) == {"rollout.churn-serving/state", *(annotations or {})}


@pytest.mark.parametrize("names", [("v7", "v8"), ("v8", "v7")])
def test_the_old_predictor_is_removed_wherever_it_stands_and_remembered(names: Any) -> None:
    before = snapshot(*names, traffic={"v7": 0, "v8": 100})
    finishing = state(1).but(phase=Phase.FINISHING)
    after = parse(apply(before.manifest, remove(before, finishing, "v7", keep=True)))
    assert after.traffic() == {"v8": 100}
    kept = Predictor.model_validate_json(after.metadata.annotations["rollout.churn-serving/previous"])
    assert kept.name == "v7"


def test_a_shadow_keeps_its_mirror_percentage() -> None:
    before = snapshot("v7", "v8", traffic={"v7": 100, "v8": 0})
    before.manifest["spec"]["predictors"].append(
        copy.deepcopy(before.manifest["spec"]["predictors"][0]) | {"name": "mirror", "shadow": True, "traffic": 20}
    )
    after = apply(before.manifest, weigh(before, state()))
    assert [one["traffic"] for one in after["spec"]["predictors"]] == [90, 10, 20]


@pytest.mark.parametrize("generation", [True, False], ids=["generation", "none"])
@pytest.mark.parametrize("patch", [begin, weigh], ids=["begin", "weigh"])
def test_any_change_of_the_predictors_in_between_is_a_conflict(patch: Any, generation: bool) -> None:
    names = ("v7",) if patch is begin else ("v7", "v8")
    before = snapshot(*names, generation=generation)
    canary = parse(snapshot("v8").manifest).stable
    operations = begin(before, state(), canary) if patch is begin else weigh(before, state())
    changed = copy.deepcopy(before.manifest)
    changed["spec"]["predictors"][0]["traffic"] = 100
    if generation:
        changed["metadata"]["generation"] += 1
    with pytest.raises(Conflict):
        apply(changed, operations)


def test_a_state_that_somebody_else_wrote_in_between_is_a_conflict() -> None:
    before = snapshot("v7", "v8", annotations={"rollout.churn-serving/state": "old"})
    changed = copy.deepcopy(before.manifest)
    changed["metadata"]["annotations"]["rollout.churn-serving/state"] = "newer"
    with pytest.raises(Conflict, match="churn-serving~1state"):
        apply(changed, weigh(before, state()))
