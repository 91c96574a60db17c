"""V2 messages as protobuf: tensors typed or raw, and answers in the form that they were asked in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlserver.grpc import dataplane_pb2 as pb

from custom_runtime import v2
from custom_runtime.errors import InvalidInput
from custom_runtime.query import FEATURE_SOURCES, Prediction
from custom_runtime.quoting import quoted

_CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
_RAW: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
_LENGTH_BYTES = 4  # a raw BYTES element is its length, little-endian, then the bytes
_MOST_INPUTS = 100
_DIMENSIONS = 8  # more than enough to say that a shape is wrong
_SOURCES = [source.encode() for source in FEATURE_SOURCES]
_RAW_SOURCES = [len(source).to_bytes(_LENGTH_BYTES, "little") + source for source in _SOURCES]


def read_tensors(request: Any) -> list[v2.Tensor]:
    """Return the inputs of a ModelInferRequest, typed or raw. Raises InvalidInput."""
    raw = request.raw_input_contents
    inputs = request.inputs
    if len(inputs) > _MOST_INPUTS:  # each costs microseconds to look at, and there may be millions
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


def as_response(request: Any, version: str, prediction: Prediction, requested: Sequence[str]) -> Any:
    """Return a ModelInferResponse with its contents raw where the request had them raw."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    shape = (len(prediction.probabilities), 1)
    for name, datatype in v2.OUTPUTS:
        if name not in requested:
            continue
        output = response.outputs.add(name=name, datatype=datatype, shape=shape)
        if name == v2.PROBABILITY:
            if request.raw_input_contents:
                response.raw_output_contents.append(np.asarray(prediction.probabilities, "<f8").tobytes())
            else:
                output.contents.fp64_contents.extend(prediction.probabilities)
        elif request.raw_input_contents:
            response.raw_output_contents.append(b"".join(_RAW_SOURCES[source] for source in prediction.sources))
        else:
            output.contents.bytes_contents.extend(_SOURCES[source] for source in prediction.sources)
    return response
