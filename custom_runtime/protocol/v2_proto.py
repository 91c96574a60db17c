"""V2 messages as protobuf: requests with typed or raw tensors, and responses in the same form as their request.

`read_request` parses a message only when the number of its fields is bounded: two bytes on the wire become an empty
input of a hundred bytes, and 8 MB of them took 1.4 GB and 40 s of the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from mlserver.grpc import dataplane_pb2 as pb

from custom_runtime.contract import PROBABILITY
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.prediction.query import FEATURE_SOURCES, Prediction
from custom_runtime.protocol import v2

_CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
_RAW: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
_LENGTH_BYTES = 4  # a raw BYTES element is its length, little-endian, then the bytes
_MOST_INPUTS = 100
_DIMENSIONS = 8  # of a longer shape, enough to report that it is wrong
_SOURCES = [source.encode() for source in FEATURE_SOURCES]
_RAW_SOURCES = [len(source).to_bytes(_LENGTH_BYTES, "little") + source for source in _SOURCES]
# The result for a message that cannot be parsed. Where a deserializer raises, gRPC answers UNKNOWN and logs.
UNREADABLE = pb.ModelInferRequest()
_parse = pb.ModelInferRequest.FromString
# Smaller messages cannot have enough parts to matter.
_SMALL_BYTES = 16_384
# 20 inputs of 5 fields each are 120; parameters and requested outputs may come beside them.
_MOST_FIELDS = 2_000
_WITH_FIELDS = (5, 6)  # inputs, outputs
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_tensors(request: Any) -> list[v2.Tensor]:
    """Return the inputs of a ModelInferRequest, typed or raw. Raises InvalidInput."""
    raw = request.raw_input_contents
    inputs = request.inputs
    if len(inputs) > _MOST_INPUTS:  # each takes microseconds to read, and there may be millions
        raise InvalidInput(f"the request has {len(inputs)} inputs; allowed: at most {_MOST_INPUTS}")
    if not raw:
        return [v2.Tensor(given.name, given.datatype, given.shape[:_DIMENSIONS], _contents(given)) for given in inputs]
    if len(raw) != len(inputs):
        raise InvalidInput(f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs; allowed: one each")
    return [
        v2.Tensor(given.name, given.datatype, given.shape[:_DIMENSIONS], _raw_values(given, content))
        for given, content in zip(inputs, raw, strict=True)
    ]


def _contents(given: Any) -> list[Any]:
    field = _CONTENTS.get(given.datatype)
    return list(getattr(given.contents, field)) if field else []


def _raw_values(given: Any, content: bytes) -> Any:
    if given.datatype == "BYTES":
        return _raw_bytes(given.name, content)
    dtype = _RAW.get(given.datatype)
    if dtype is None:
        return []
    if len(content) % dtype.itemsize:
        raise InvalidInput(
            f"input {quoted(given.name)} has {len(content)} raw bytes; allowed: a multiple of {dtype.itemsize}"
        )
    return np.frombuffer(content, dtype)


def _raw_bytes(name: str, content: bytes) -> list[bytes]:
    values: list[bytes] = []
    position, end = 0, len(content)
    while position < end:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(content[position:start], "little")
        if start > end or position > end:
            raise InvalidInput(f"input {quoted(name)} has raw BYTES that end inside element {len(values)}")
        values.append(content[start:position])
    return values


def proto_response(request: Any, version: str, prediction: Prediction, requested: Sequence[str]) -> Any:
    """Return a ModelInferResponse with its contents raw where the request had them raw."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    shape = (len(prediction.probabilities), 1)
    for name, datatype in v2.OUTPUTS:
        if name not in requested:
            continue
        output = response.outputs.add(name=name, datatype=datatype, shape=shape)
        if name == PROBABILITY:
            if request.raw_input_contents:
                response.raw_output_contents.append(np.asarray(prediction.probabilities, "<f8").tobytes())
            else:
                output.contents.fp64_contents.extend(prediction.probabilities)
        elif request.raw_input_contents:
            response.raw_output_contents.append(b"".join(_RAW_SOURCES[source] for source in prediction.sources))
        else:
            output.contents.bytes_contents.extend(_SOURCES[source] for source in prediction.sources)
    return response


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
    """Yield the number, start and end of every field of the wire format, without parsing its content."""
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
            raise ValueError("a group; this message has no groups")
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
