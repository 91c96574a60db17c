"""A body that is parsed in pieces gives what orjson gives for the whole, or an error that says what is allowed."""

from __future__ import annotations

import threading
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.errors import InvalidInput
from custom_runtime.protocol import big_json

NUMBERS = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=9)
DATA = st.one_of(st.lists(NUMBERS), st.lists(TEXT), st.lists(st.lists(NUMBERS, min_size=1)))


def body_of(*data: list[Any]) -> dict[str, Any]:
    return {"id": "a", "inputs": [{"name": f"x{number}", "data": each} for number, each in enumerate(data)]}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big_json, "PIECE_BYTES", 16)


@given(st.lists(DATA, max_size=4), st.booleans())
def test_pieces_give_what_the_whole_gives(data: list[list[Any]], spaced: bool) -> None:
    body = orjson.dumps(body_of(*data), option=orjson.OPT_INDENT_2 if spaced else None)
    assert big_json.loads(body) == orjson.loads(body)


@pytest.mark.parametrize(
    "text",
    ['x",', "a],[b", '"data":[1]', "\\", '\\"', "]", '","', "é" * 40],
)
def test_strings_that_look_like_boundaries_are_strings(text: str) -> None:
    body = orjson.dumps(body_of([text, "b", text] * 20, [1, 2]))
    assert big_json.loads(body) == orjson.loads(body)


@pytest.mark.parametrize(
    "body", [b'{"inputs":[{"data":[1,2}]}', b'{"inputs":[{"data":[1,,2]}]}', b'{"data":[', b"[1,2"]
)
def test_what_is_not_json_is_an_error_of_the_parser(body: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        big_json.loads(body)


def test_a_string_that_is_the_placeholder_is_refused() -> None:
    with pytest.raises(InvalidInput, match="NUL"):
        big_json.loads(orjson.dumps(body_of(["\x00data"])))


@pytest.mark.parametrize("data", [b"", b" ", b'{"a": [1]}', b"[[1], [2]], [[3]]", b"null, true", b'"a", 1, [2, "b]"]'])
def test_whatever_a_tensor_may_not_hold_is_parsed_as_it_stands(data: bytes) -> None:
    body = b'{"inputs":[{"data":[' + data + b"]}]}"
    assert big_json.loads(body) == orjson.loads(body)


def test_lists_in_lists_are_refused_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big_json, "LONGEST_ELEMENT_BYTES", 64)
    with pytest.raises(InvalidInput, match="allowed: 64 bytes of anything else"):
        big_json.loads(b'{"inputs":[{"data":[' + b"[" * 500 + b"]" * 500 + b"]}]}")


def test_another_thread_gets_the_lock_while_a_big_body_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    columns = [[1.5] * 100_000] * 9
    body = orjson.dumps(body_of(*columns))

    def longest_pause_s(parse: Any) -> float:
        """The longest time that this thread did not run while the other one parsed."""
        thread = threading.Thread(target=parse, args=(body,))
        before, longest = time.perf_counter(), 0.0
        thread.start()
        while thread.is_alive():
            now = time.perf_counter()
            before, longest = now, max(longest, now - before)
            time.sleep(0.0002)
        return longest

    # Compared within one run: a busy machine makes both longer.
    assert min(longest_pause_s(big_json.loads) for _ in range(3)) < min(longest_pause_s(orjson.loads) for _ in range(3))
