"""The usual body of /predict, a key alone, is read without Pydantic: it must decide as Pydantic does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput
from custom_runtime.protocol import predict_json

SPACE = st.text(" \n\r\t\f\v\xa0", max_size=2)
NUMBER = st.one_of(
    st.integers().map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["0", "-0", "01", "+1", "1.0", "1e3", "\u0661", "true", '"1"', "null", "1_0", ""]),
)


def by_pydantic(body: bytes) -> int | None:
    try:
        return int(CONTRACT.input.model_validate_json(body).customer_id)  # type: ignore[attr-defined]
    except ValidationError:
        return None


def parsed(body: bytes) -> int | None:
    try:
        (key,) = predict_json.parse(body).keys
    except InvalidInput:
        return None
    return int(key)


@given(SPACE, SPACE, SPACE, SPACE, NUMBER)
def test_a_key_alone_is_read_as_pydantic_reads_it(a: str, b: str, c: str, d: str, number: str) -> None:
    body = f'{a}{{{b}"customer_id"{c}:{number}{d}}}'.encode()
    assert parsed(body) == by_pydantic(body)


@pytest.mark.parametrize(
    "body",
    [
        {"customer_id": 1, "customer_id ": 2},
        {"customer": 1},
        {},
        [1],
        {"customer_id": 10**15},
        {"customer_id": 2**63 - 1},
        {"customer_id": 2**63},
        {"customer_id": -1},
    ],
)
def test_other_bodies_are_left_to_pydantic(body: object) -> None:
    content = json.dumps(body).encode()
    assert parsed(content) == by_pydantic(content)


def test_a_key_given_twice_is_the_last_one() -> None:
    content = b'{"customer_id":1,"customer_id":2}'
    assert parsed(content) == by_pydantic(content) == 2
