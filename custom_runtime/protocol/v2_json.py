"""V2 bodies as JSON: the plain form that almost every request has, read without Pydantic models."""

from __future__ import annotations

from typing import Any

import orjson

from custom_runtime.errors import InvalidInput
from custom_runtime.prediction.query import Prediction
from custom_runtime.protocol import v2

_TENSOR_FIELDS = {"name", "shape", "datatype", "data"}
_DATATYPES = frozenset(
    ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES")
)
# A parsed list or object takes up to 70 times its two bytes, so a body with more of them is rejected before parsing.
_MOST_OBJECTS, _MOST_LISTS = 1_000, 500_000
# MLServer's own route builds one error per invalid element: 4 million of them would take gigabytes.
_MOST_ELEMENTS, _MOST_DIMENSIONS = 100, 8
_ALL_OUTPUTS = v2.check_outputs(())


def read_plain(body: bytes) -> tuple[str | None, list[v2.Tensor]] | None:
    """Read a V2 body of the plain form: an optional id, and inputs without parameters. None: any other form."""
    try:
        request: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(request) is not dict or not request.keys() <= {"id", "inputs"}:
        return None
    request_id, inputs = request.get("id"), request.get("inputs")
    if type(inputs) is not list or not (request_id is None or type(request_id) is str):
        return None
    tensors = []
    for given in inputs:
        if type(given) is not dict or given.keys() != _TENSOR_FIELDS:
            return None
        name, shape, datatype, data = given["name"], given["shape"], given["datatype"], given["data"]
        if type(name) is not str or type(shape) is not list or type(data) is not list:
            return None
        if type(datatype) is not str or datatype not in _DATATYPES:
            return None
        if any(type(length) is not int for length in shape):
            return None
        tensors.append(v2.Tensor(name, datatype, shape, data))
    return request_id, tensors


def read_big(body: bytes) -> tuple[str | None, list[v2.Tensor]] | None:
    """Do the same for a big body, and check first that its parts fit in memory. Raises InvalidInput."""
    _check_size(body)
    return read_plain(body)


def check_parts(body: bytes) -> None:
    """Reject a body for which MLServer's own route would build thousands of errors. Raises InvalidInput."""
    _check_size(body)
    try:
        request: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return  # one problem
    if type(request) is not dict:
        return
    for field in ("inputs", "outputs"):
        elements = request.get(field)
        if type(elements) is not list:
            continue
        if len(elements) > _MOST_ELEMENTS:
            raise InvalidInput(f"{field} has {len(elements)} elements; allowed: at most {_MOST_ELEMENTS}")
        for element in elements:
            shape = element.get("shape") if type(element) is dict else None
            if type(shape) is list and len(shape) > _MOST_DIMENSIONS:
                raise InvalidInput(f"a shape has {len(shape)} dimensions; allowed: [n] or [n, 1]")


def _check_size(body: bytes) -> None:
    if body.count(b"{") > _MOST_OBJECTS or body.count(b"[") > _MOST_LISTS:
        raise InvalidInput(f"the body has too many parts; allowed: {_MOST_OBJECTS} objects and {_MOST_LISTS} lists")


def json_response(model: str, version: str, request_id: str, prediction: Prediction) -> dict[str, Any]:
    """Return the response to a plain request, with the same fields as MLServer's own route."""
    return {
        "model_name": model,
        "model_version": version,
        "id": request_id,
        "parameters": {},
        "outputs": v2.encode_outputs(prediction, _ALL_OUTPUTS),
    }
