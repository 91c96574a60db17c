"""V2 messages as protobuf: requests with typed or raw tensors, and responses in the same form as their request.

`read_request` parses a message only when the number of its fields is bounded: two bytes on the wire become an empty
input of a hundred bytes, and 8 MB of them took 1.4 GB and 40 s of the event loop.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from mlserver.grpc import dataplane_pb2 as pb

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.outputs import READERS
from custom_runtime.prediction.query import Prediction
from custom_runtime.protocol import explanations, v2
from custom_runtime.schema import CATEGORY_DATATYPE, FEATURE_SOURCES

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_RAW: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
# Of an integer key: the field of typed contents, and the bytes of a raw value.
_KEY_CONTENTS = {
    datatype: (_CONTENTS[datatype], _RAW[datatype].itemsize)
    for datatype in ("INT64", "INT32")
    if v2.KEY is not None and datatype in v2.DATATYPES[v2.KEY]
}
_LENGTH_BYTES = 4  # a raw BYTES element is its length, little-endian, then the bytes
_MOST_INPUTS = 100
_DIMENSIONS = 8  # of a longer shape, enough to report that it is wrong
_BYTES = [bytes((number,)) for number in range(0x80)]
# The result for a message that cannot be parsed. Where a deserializer raises, gRPC answers UNKNOWN and logs.
UNREADABLE = pb.ModelInferRequest()
_parse = pb.ModelInferRequest.FromString
# Smaller messages cannot have enough parts to matter.
_SMALL_BYTES = 16_384
# 20 inputs of 5 fields each are 120; parameters and requested outputs may come beside them.
_MOST_FIELDS = 2_000
_WITH_FIELDS = (5, 6)  # inputs, outputs
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def only_key(request: Any) -> list[int] | None:
    """Return the key of the usual request, one integer and no other input; None: it is another one.

    What it takes, `read_tensors` and `v2.decode` take, too: a tensor, its rows and arrays are not made one by one.
    """
    inputs = request.inputs
    if len(inputs) != 1:
        return None
    given = inputs[0]
    kind = _KEY_CONTENTS.get(given.datatype)
    if kind is None or given.name != v2.KEY or given.shape not in v2.ONE_ROW:
        return None
    field, size = kind
    raw = request.raw_input_contents
    if not raw:
        values = getattr(given.contents, field)
        key: int | None = values[0] if len(values) == 1 else None
    elif len(raw) == 1 and len(raw[0]) == size:
        key = int.from_bytes(raw[0], "little", signed=True)
    else:
        return None
    return [key] if key is not None and v2.accepts_key(key) else None


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


def read_timeout_s(request: Any) -> float | None:
    """Return the request's own `timeout`, microseconds as Triton's clients send it; None: it has none.

    Raises InvalidInput.
    """
    if not request.parameters or "timeout" not in request.parameters:
        return None
    value = request.parameters["timeout"]
    timeout_us = value.int64_param
    if value.WhichOneof("parameter_choice") != "int64_param" or timeout_us < 0:
        given = getattr(value, value.WhichOneof("parameter_choice") or "", None)
        raise InvalidInput(f"parameter 'timeout' is {quoted(given)}; allowed: whole microseconds, 0 for none")
    return timeout_us / 1e6 if timeout_us else None


def read_explain(request: Any) -> int | None:
    """Return the request's parameter `explain`, None where it has none. Raises InvalidInput."""
    if not request.parameters or explanations.PARAMETER not in request.parameters:
        return None
    value = request.parameters[explanations.PARAMETER]
    return explanations.count_of(getattr(value, value.WhichOneof("parameter_choice") or "", ""))


def write_explained(
    explained: ExplainedPrediction, requested: Sequence[str], explain: int | None, *, raw: bool
) -> bytes:
    """Return what follows `write_response` for the outputs that explain: repeated fields of one message add up."""
    response = pb.ModelInferResponse()
    for output in explanations.encode_outputs(explained, requested, explain or 0):
        written = response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        data = output["data"]
        if output["datatype"] == "BYTES":
            encoded = [text.encode() for text in data]
            if raw:
                pieces = [len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in encoded]
                response.raw_output_contents.append(b"".join(pieces))
            else:
                written.contents.bytes_contents.extend(encoded)
        elif raw:
            response.raw_output_contents.append(np.asarray(data, "<f4").tobytes())
        else:
            written.contents.fp32_contents.extend(data)
    content: bytes = response.SerializeToString()
    return content


def write_response(
    model: str,
    version: str,
    request_id: str,
    prediction: Prediction | ExplainedPrediction,
    requested: Sequence[str],
    *,
    raw: bool,
) -> bytes:
    """Return the bytes of a ModelInferResponse, its contents raw where the request had them raw.

    Encoded directly: protobuf's objects take 9 us for one row, this takes 2.
    """
    rows = _written_varint(len(prediction.scores))
    content, after = b"", b""
    for name, is_text, head, columns, read in _OUTPUTS:
        if name not in requested:
            continue
        values = read(prediction)
        if is_text:
            pieces = _RAW_TEXTS if raw else _TYPED_TEXTS
            packed = pieces[values[0]] if len(values) == 1 else b"".join([pieces[value] for value in values])
            typed = packed
        else:
            packed = struct.pack(f"<{len(values)}d", *values)
            typed = b"" if raw else b"\x3a" + _delimited(packed)
        shape = b"\x1a" + _delimited(rows + columns)
        if raw:
            content += b"\x2a" + _delimited(head + shape)
            after += b"\x32" + _delimited(packed)
        else:
            content += b"\x2a" + _delimited(head + shape + b"\x2a" + _delimited(typed))
    return b"".join((_head(model, version), b"\x1a", _delimited(request_id.encode()), content, after))


@lru_cache(maxsize=256)
def _head(model: str, version: str) -> bytes:
    return b"\x0a" + _delimited(model.encode()) + b"\x12" + _delimited(version.encode())


def _delimited(content: bytes) -> bytes:
    """Return bytes with their length before them, as protobuf writes strings, messages and packed numbers."""
    return _written_varint(len(content)) + content


def _written_varint(number: int) -> bytes:
    if number < 0x80:
        return _BYTES[number]
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


# Wire format: a tag, the length, the content. 0x42 is the eighth field of InferTensorContents, bytes_contents.
_TEXTS = {text: text.encode() for text in (*FEATURE_SOURCES, *CONTRACT.task.classes)}
_TYPED_TEXTS = {text: b"\x42" + _delimited(encoded) for text, encoded in _TEXTS.items()}
_RAW_TEXTS = {text: len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded for text, encoded in _TEXTS.items()}
# For each output: name, whether it is text, the bytes of name and datatype, the number of columns as a varint, reader.
_OUTPUTS = [
    (
        output.name,
        output.datatype == CATEGORY_DATATYPE,
        b"\x0a" + _delimited(output.name.encode()) + b"\x12" + _delimited(output.datatype.encode()),
        _written_varint(output.columns),
        READERS[output.name],
    )
    for output in CONTRACT.outputs
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
    values = np.frombuffer(content, dtype)
    return values != 0 if given.datatype == "BOOL" else values


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
