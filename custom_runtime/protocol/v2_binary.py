"""The binary tensor extension of V2 REST: raw little-endian tensors behind the JSON, in requests and in answers.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
A BYTES element is its length, four bytes little-endian, then its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from custom_runtime.errors import InvalidInput, quoted

_LENGTH_BYTES = 4
_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_INTEGERS = frozenset(("INT32", "INT64"))


# One number: an array takes five times as long.
_PACKED = {"FP32": struct.Struct("<f").pack, "FP64": struct.Struct("<d").pack}


class Contents:
    """What follows the JSON of a request: the raw contents of its inputs, in their order."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._position = 0

    def read(self, name: str, datatype: str, size: Any) -> Any:
        """Return the next `size` bytes as an array, or as a list of bytes for BYTES. Raises InvalidInput."""
        left = len(self._content) - self._position
        if type(size) is not int or not 0 <= size <= left:
            raise InvalidInput(
                f"input {quoted(name)} has binary_data_size {quoted(size)}; allowed: 0 to the {left} bytes left"
            )
        part = self._content[self._position : self._position + size]
        self._position += size
        if datatype == "BYTES":
            return _elements(name, part)
        dtype = _DTYPES[datatype]
        if size == dtype.itemsize and datatype in _INTEGERS:
            return [int.from_bytes(part, "little", signed=True)]  # one key: an array takes ten times as long
        if size % dtype.itemsize:
            raise InvalidInput(
                f"input {quoted(name)} has {size} raw bytes; allowed: a multiple of {dtype.itemsize} for {datatype}"
            )
        values = np.frombuffer(part, dtype)
        return values != 0 if datatype == "BOOL" else values

    def check_end(self) -> None:
        """Raise InvalidInput when bytes are left that belong to no input."""
        left = len(self._content) - self._position
        if left:
            raise InvalidInput(f"{left} bytes follow the last input; allowed: none beyond the sum of binary_data_size")


def take_out(outputs: Sequence[dict[str, Any]], names: frozenset[str]) -> list[bytes]:
    """Replace the data of the outputs of these names by their size; return their raw contents in order."""
    raw: list[bytes] = []
    for output in outputs:
        if output["name"] in names:
            content = pack(output["datatype"], output.pop("data"))
            output["parameters"] = {"binary_data_size": len(content)}
            raw.append(content)
    return raw


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """Return the raw content of an output."""
    if datatype == "BYTES":
        return _joined(values)
    if len(values) == 1 and datatype in _PACKED:
        return _PACKED[datatype](values[0])
    return np.asarray(values, _DTYPES[datatype]).tobytes()


def _elements(name: str, content: memoryview) -> list[bytes]:
    values: list[bytes] = []
    position, end = 0, len(content)
    while position < end:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(content[position:start], "little")
        if start > end or position > end:
            raise InvalidInput(f"input {quoted(name)} has raw BYTES that end inside element {len(values)}")
        values.append(bytes(content[start:position]))
    return values


def _joined(values: Sequence[str]) -> bytes:
    parts: list[bytes] = []
    for value in values:
        encoded = value.encode()
        parts += (len(encoded).to_bytes(_LENGTH_BYTES, "little"), encoded)
    return b"".join(parts)
