"""What counts as somebody else's change, and what does not."""

from __future__ import annotations

from rollout.engine.observation import fingerprints, foreign_change, same_weights
from rollout.engine.state import RolloutState
from rollout.manifest.parsing import parse
from rollout.plan.plan import Plan
from tests.support.rollout_world import World


def test_an_absent_predictor_is_one_without_requests() -> None:
    assert same_weights({"v7": 100}, {"v7": 100, "v8": 0})
    assert not same_weights({}, {"v7": 100})
    assert not same_weights({"v7": 100, "other": 5}, {"v7": 100})


def test_defaults_that_an_api_server_fills_in_are_no_foreign_change(world: World) -> None:
    """The CRD gives ports a protocol, controllers set replicas; neither changes what a version answers."""
    deployment = world.target.read().deployment
    state = RolloutState("id", Plan(), "v7", "v8", expected=fingerprints(deployment))
    edited = dict(world.target.read().manifest)
    edited["spec"]["predictors"][0]["replicas"] = 4
    edited["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP"
    assert foreign_change(state.but(canary="v9"), parse(edited)).message == ""
