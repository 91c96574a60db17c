"""The annotation: what is written is read, and what was tampered with is refused."""

from __future__ import annotations

import json

import pytest

from rollout.changes import fingerprints, foreign_change, same_weights
from rollout.errors import StateError
from rollout.manifest import parse
from rollout.plan import Plan
from rollout.state import STATE, Phase, RolloutState, decode, encode, read_state


@pytest.fixture
def state():
    return RolloutState("id", Plan(), "v7", "v8", step=1, evidence={"stable": [1, 2]}, nonce="w.1", message="ü\n{}")


def test_what_is_written_is_read_back(state):
    assert decode(encode(state)) == state


def test_the_text_has_no_character_that_go_and_python_escape_differently(state):
    """A real API server refuses `test` on such a string: it compares bytes, after Go has written them."""
    text = encode(state.but(message="ü <b> & \u2028"))
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert decode(text).message == "ü <b> & \u2028"


def test_no_annotation_is_no_rollout():
    assert read_state({}) is None


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"schema": 2}', "not json"])
def test_a_text_that_is_no_state_is_refused_with_what_to_do(text):
    with pytest.raises(StateError, match=r"written by another release|put back what was there"):
        read_state({STATE: text})


def test_an_edited_plan_is_noticed(state):
    data = json.loads(encode(state))
    data["plan"]["interval_s"] = 1
    with pytest.raises(StateError, match="was edited: its hash is"):
        decode(json.dumps(data))


def test_a_missing_field_is_named(state):
    data = json.loads(encode(state))
    del data["stable"]
    with pytest.raises(StateError, match="stable"):
        decode(json.dumps(data))


@pytest.mark.parametrize(
    ("phase", "step", "weights"),
    [
        (Phase.PENDING, -1, {"v7": 100, "v8": 0}),
        (Phase.PROGRESSING, 0, {"v7": 90, "v8": 10}),
        (Phase.HELD, 2, {"v7": 50, "v8": 50}),
        (Phase.BAKING, 3, {"v7": 0, "v8": 100}),
        (Phase.FINISHING, 3, {"v8": 100}),
        (Phase.SUCCEEDED, 3, {"v8": 100}),
        (Phase.ROLLING_BACK, 2, {"v7": 100, "v8": 0}),
        (Phase.FAILED, 2, {"v7": 100, "v8": 0}),
    ],
)
def test_the_weights_follow_from_phase_and_step(state, phase, step, weights):
    assert state.but(phase=phase, step=step).weights == weights


def test_an_absent_predictor_is_one_without_requests():
    assert same_weights({"v7": 100}, {"v7": 100, "v8": 0})
    assert not same_weights({}, {"v7": 100})
    assert not same_weights({"v7": 100, "other": 5}, {"v7": 100})


def test_defaults_that_an_api_server_fills_in_are_no_foreign_change(world):
    """The CRD gives ports a protocol, controllers set replicas; neither changes what a version answers."""
    deployment = world.target.read().deployment
    state = RolloutState("id", Plan(), "v7", "v8", expected=fingerprints(deployment))
    edited = dict(world.target.read().manifest)
    edited["spec"]["predictors"][0]["replicas"] = 4
    edited["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["ports"][0]["protocol"] = "TCP"
    assert foreign_change(state.but(canary="v9"), parse(edited)).message == ""
