"""Parses a big V2 body in pieces, so that no single call keeps the interpreter's lock for more than a few milliseconds.

orjson parses without releasing the lock: 9 columns of 100,000 numbers took 116 ms in one call, during which the event
loop did not answer. Here each `data` array is cut out of the body, its text is split at element boundaries and parsed
piece by piece; between two pieces another thread can take the lock. Only arrays of numbers, of strings, and of rows of
these are cut: that is all that a V2 tensor may hold, and its nesting is limited thereby.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import orjson

from custom_runtime.errors import InvalidInput

PIECE_BYTES = 65_536
# A piece without an element boundary: a single value, or lists in lists. The longest category is far shorter.
LONGEST_ELEMENT_BYTES = 4 * PIECE_BYTES
# An unescaped quote never stands inside a JSON string, so this is a key wherever it is found.
_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*\[')
_STRING = rb'"(?:[^"\\]|\\.)*+"'
_NUMBER = rb'[^\s"\[\]{},]++'
_ROW = rb'\[(?:[^"\[\]{}]|' + _STRING + rb")*+\]"
_ELEMENT = rb"\s*+(?:" + _NUMBER + rb"|" + _STRING + rb"|" + _ROW + rb")\s*+"
# Possessive, so that no text takes more than one pass over it.
_ELEMENTS = re.compile(rb"(?:" + _ELEMENT + rb",)++", re.DOTALL)
_LAST = re.compile(rb"(" + _ELEMENT + rb")\]", re.DOTALL)
_PLACEHOLDER = b'"\\u0000data"'
_MARK = "\x00data"


def loads(body: bytes) -> Any:
    """Return the parsed body. Raises orjson.JSONDecodeError, or InvalidInput for elements that are nested or too long.

    A string value that consists of the placeholder, which starts with a NUL character, is not allowed.
    """
    if _PLACEHOLDER in body:
        raise InvalidInput("a string of the body starts with a NUL character; allowed: text without it")
    skeleton: list[bytes] = []
    arrays: list[list[Any]] = []
    position = 0
    while match := _DATA.search(body, position):
        array, end = _parse_array(body, match.end())
        if array is None:  # not what a tensor may hold, or not JSON: orjson says which
            skeleton.append(body[position : match.end()])
            position = match.end()
            continue
        skeleton += (body[position : match.end()], _PLACEHOLDER)
        arrays.append(array)
        position = end
    skeleton.append(body[position:])
    rest = b"".join(skeleton)
    if len(rest) > LONGEST_ELEMENT_BYTES:
        raise InvalidInput(
            f"{len(rest)} bytes of the body are no numbers, strings or rows of these in a tensor's data; "
            f"allowed: {LONGEST_ELEMENT_BYTES} bytes of anything else"
        )
    return _restore(orjson.loads(rest), iter(arrays))


def _parse_array(body: bytes, start: int) -> tuple[list[Any] | None, int]:
    """Parse the array that was opened before `start`; return it and where its closing bracket stands, or None."""
    array: list[Any] = []
    while True:
        match = _ELEMENTS.match(body, start, start + PIECE_BYTES) or _LAST.match(
            body, start, start + LONGEST_ELEMENT_BYTES
        )
        if match is None:
            return None, start
        is_last = match.re is _LAST
        piece = match[1] if is_last else match[0][:-1]  # without the comma
        array += orjson.loads(b"".join((b"[", piece, b"]")))
        start = match.end()
        if is_last:
            return array, start - 1
        time.sleep(0)  # releases the interpreter's lock


def _restore(value: Any, arrays: Iterator[list[Any]]) -> Any:
    """Put the parsed arrays back into the parsed skeleton, in the order in which they stood."""
    if isinstance(value, dict):
        for key, held in value.items():
            value[key] = next(arrays) if key == "data" and held == [_MARK] else _restore(held, arrays)
    elif isinstance(value, list):
        for index, held in enumerate(value):
            value[index] = _restore(held, arrays)
    return value
