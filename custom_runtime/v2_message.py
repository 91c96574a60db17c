"""The bytes of a ModelInferRequest -> the message, unless its parts would fill the memory.

Two bytes on the wire make an empty input of a hundred bytes: 8 MB of them took 1.4 GB and 40 s of the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from mlserver.grpc import dataplane_pb2 as pb

# Stands for a message that cannot be read. gRPC would answer UNKNOWN and log, where a deserializer raises.
UNREADABLE = pb.ModelInferRequest()

_parse = pb.ModelInferRequest.FromString
# Smaller messages cannot have enough parts to matter.
_SMALL_BYTES = 16_384
# 20 inputs of 5 fields each are 120; parameters and requested outputs may come beside them.
_MOST_FIELDS = 2_000
_WITH_FIELDS = (5, 6)  # inputs, outputs
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_request(message: bytes) -> Any:
    """Return a ModelInferRequest, or UNREADABLE."""
    try:
        if len(message) > _SMALL_BYTES:
            _check_parts(message)
        return _parse(message)
    except (DecodeError, ValueError, IndexError):
        return UNREADABLE


def _check_parts(message: bytes) -> None:
    """Raise ValueError when the message and its inputs have too many fields, or end inside one."""
    count = 0
    for number, start, end in _fields(message, 0, len(message)):
        count += 1
        if number in _WITH_FIELDS:
            for _ in _fields(message, start, end):
                count += 1
                if count > _MOST_FIELDS:
                    break
        if count > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")


def _fields(message: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number, start and end of every field, as the wire format has them, without looking inside."""
    while position < end:
        tag, position = _varint(message, position)
        kind, start = tag & 7, position
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _LENGTH:
            length, start = _varint(message, position)
            position = start + length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("a group, which this message has none of")
        if position > end:
            raise ValueError("a field that ends beyond its message")
        yield tag >> 3, start, position


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
