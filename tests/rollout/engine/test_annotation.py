"""The annotation: what is written is read, and what was tampered with is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rollout.engine.state import STATE, RolloutState, decode, encode, read_state
from rollout.errors import StateError
from rollout.plan.plan import Plan


@pytest.fixture
def state() -> Any:
    return RolloutState("id", Plan(), "v7", "v8", step=1, evidence={"stable": [1, 2]}, nonce="w.1", message="ü\n{}")


def test_what_is_written_is_read_back(state: Any) -> None:
    assert decode(encode(state)) == state


def test_the_text_has_no_character_that_go_and_python_escape_differently(state: Any) -> None:
    """A real API server refuses `test` on such a string: it compares bytes, after Go has written them."""
    text = encode(state.but(message="ü <b> & \u2028"))
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert decode(text).message == "ü <b> & \u2028"


def test_no_annotation_is_no_rollout() -> None:
    assert read_state({}) is None


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"schema": 2}', "not json"])
def test_a_text_that_is_no_state_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(StateError, match=r"written by another release|put back what was there"):
        read_state({STATE: text})


def test_an_edited_plan_is_noticed(state: Any) -> None:
    data = json.loads(encode(state))
    data["plan"]["interval_s"] = 1
    with pytest.raises(StateError, match="was edited: its hash is"):
        decode(json.dumps(data))


def test_a_missing_field_is_named(state: Any) -> None:
    data = json.loads(encode(state))
    del data["stable"]
    with pytest.raises(StateError, match="stable"):
        decode(json.dumps(data))
