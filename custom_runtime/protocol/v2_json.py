"""V2 bodies as JSON: what real clients send, read without a model of it, and the answers to it.

tritonclient, KServe's client and MLServer's codecs send an id, `parameters` and requested `outputs` beside the inputs.
What has a field that is not known here is left to MLServer's own route, which explains what it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.outputs import READERS, Reader
from custom_runtime.prediction.query import NO_FEATURES, Prediction, Query
from custom_runtime.protocol import big_json, explanations, v2, v2_binary
from custom_runtime.protocol.request_ids import next_id
from custom_runtime.schema import FEATURE_SOURCES

_DATATYPES = frozenset(
    ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES")
)
_FIELDS = ("id", "inputs", "outputs", "parameters")
# KServe's client repeats the model's name; the path names the model, as on MLServer's own route.
_REQUEST_FIELDS = frozenset((*_FIELDS, "model_name"))
_PLAIN_TENSOR = frozenset(("name", "shape", "datatype", "data"))
_TENSOR_FIELDS = _PLAIN_TENSOR | {"parameters"}
_OUTPUT_FIELDS = frozenset(("name", "parameters"))
# Parsed, a list or an object takes up to 70 times its two bytes: what has more of them is refused before that.
_MOST_OBJECTS, _MOST_LISTS = 1_000, 500_000
# MLServer's own route builds one error per invalid element: 4 million of them would take gigabytes.
_MOST_ELEMENTS, _MOST_DIMENSIONS = 100, 8
# JSON before raw tensors that is kept, read: of as many kinds as _before_key has room for.
_LONGEST_KNOWN_BYTES = 1_024
_KEY_DATATYPES = v2.DATATYPES.get(v2.KEY or "", ())
# The size of an integer key as raw bytes, and its datatype.
_KEY_BYTES = {4: "INT32", 8: "INT64"}
_NO_PARAMETERS: Mapping[str, Any] = {}
_NOTHING: frozenset[str] = frozenset()


class InferRequest(NamedTuple):
    """A V2 request as it came; one without an id gets one.

    requested: output names in the model's order; binary: those of them that are wanted as raw bytes; timeout_s: the
    parameter `timeout`, which Triton's clients send in microseconds; explain: the parameter of this name. query: what
    the inputs mean, where they are one key and nothing else; tensors is empty then.
    """

    id: str
    tensors: Sequence[v2.Tensor]
    requested: tuple[str, ...]
    binary: frozenset[str]
    timeout_s: float | None
    explain: int | None = None
    is_explained: bool = False
    query: Query | None = None


def read_request(
    body: bytes, json_bytes: int | None = None, *, parse: Callable[[bytes], Any] = orjson.loads
) -> InferRequest | None:
    """Read a V2 body; json_bytes: how much of it is JSON, where raw tensors follow (Inference-Header-Content-Length).

    None: a shape of body that MLServer's own route must explain. Raises InvalidInput.
    """
    if json_bytes is None:
        return _read(body, None, parse)
    if json_bytes > len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {json_bytes}; allowed: at most the body's {len(body)} bytes"
        )
    head, raw_bytes = body[:json_bytes], len(body) - json_bytes
    if raw_bytes in _KEY_BYTES and json_bytes <= _LONGEST_KNOWN_BYTES:
        known = _before_key(head, raw_bytes)
        key = int.from_bytes(body[json_bytes:], "little", signed=True)
        if known is not None and v2.accepts_key(key):
            return known.request([key])
    request = _read(head, v2_binary.Contents(memoryview(body)[json_bytes:]), parse)
    if request is None:
        raise InvalidInput(
            f"the first {json_bytes} bytes are no V2 request; allowed: a JSON object of {', '.join(_FIELDS)}"
        )
    return request


class _BeforeKey(NamedTuple):
    """The JSON before a raw integer key: `common` is what all such requests have in common."""

    common: InferRequest
    has_id: bool

    def request(self, key: list[int]) -> InferRequest:
        """Return the request for a key."""
        _, _, requested, binary, timeout_s, explain, is_explained, _ = self.common
        request_id = self.common.id if self.has_id else next_id()
        query = Query(key, NO_FEATURES, 0, None, request_id)
        return InferRequest(request_id, (), requested, binary, timeout_s, explain, is_explained, query)


@lru_cache(256)
def _before_key(head: bytes, key_bytes: int) -> _BeforeKey | None:
    """Read JSON that is the same in many requests, because the key comes behind it; None: it is for `_read`."""
    with suppress(InvalidInput):
        common = _read(head, v2_binary.Contents(memoryview(bytes(key_bytes))), orjson.loads)
        if common is None or len(common.tensors) != 1:
            return None
        name, datatype, shape, _ = common.tensors[0]  # with all of the raw bytes: none may be left
        if name == v2.KEY and shape in v2.ONE_ROW and datatype == _KEY_BYTES[key_bytes] and datatype in _KEY_DATATYPES:
            return _BeforeKey(common, orjson.loads(head).get("id") is not None)
    return None


def _read(body: bytes, raw: v2_binary.Contents | None, parse: Callable[[bytes], Any]) -> InferRequest | None:
    try:
        request: Any = parse(body)
    except orjson.JSONDecodeError:
        return None
    if type(request) is not dict or not request.keys() <= _REQUEST_FIELDS:
        return None
    request_id, inputs = request.get("id"), request.get("inputs")
    if type(inputs) is not list or not (request_id is None or type(request_id) is str):
        return None
    is_bare = len(request) == 1 or (len(request) == 2 and request_id is not None)  # nothing but inputs, and an id
    parameters = _NO_PARAMETERS if is_bare else _parameters(request)
    if parameters is None:
        return None
    if request_id is None:
        request_id = next_id()
    key = _only_key(inputs) if raw is None else None
    query = None if key is None else Query(key, NO_FEATURES, 0, None, request_id)
    tensors = _read_tensors(inputs, raw) if key is None else ()
    if tensors is None:
        return None
    if is_bare and raw is None:
        return InferRequest(request_id, tensors, v2.PREDICTION_OUTPUTS, _NOTHING, None, None, False, query)
    requested = v2.PREDICTION_OUTPUTS
    binary = _NOTHING
    outputs = request.get("outputs")
    explain = explanations.count_of(parameters.get(explanations.PARAMETER)) if parameters else None
    if parameters or outputs is not None:
        wanted = _read_outputs(
            [] if outputs is None else outputs, explain, binary_by_default=parameters.get("binary_data_output") is True
        )
        if wanted is None:
            return None
        requested, binary = wanted
    if raw is not None:
        raw.check_end()
    timeout_s = timeout_s_of(parameters.get("timeout")) if parameters else None
    is_explained = explain is not None or explanations.is_asked(requested)
    return InferRequest(request_id, tensors, requested, binary, timeout_s, explain, is_explained, query)


def read_big(body: bytes, json_bytes: int | None = None) -> InferRequest | None:
    """Do the same with a big body, whose parts are counted first and parsed in pieces. Raises InvalidInput."""
    _check_size(body if json_bytes is None else body[:json_bytes])
    return read_request(body, json_bytes, parse=big_json.loads)


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


def render(
    model: str, version: str, request: InferRequest, prediction: Prediction | ExplainedPrediction
) -> tuple[bytes, int | None]:
    """Return the body of the answer, field by field as MLServer's own route renders it, and how much of it is JSON.

    None: all of it is, which needs no header.
    """
    if not isinstance(prediction, ExplainedPrediction):
        rows = len(prediction.scores)
        if rows == 1 and not request.binary:
            template, columns = _template(model, version, request.requested, _NOTHING, prediction.sources[0])
            return template % (orjson.dumps(request.id), *[orjson.dumps(read(prediction)) for read, _ in columns]), None
        template, columns = _template(model, version, request.requested, request.binary)
        values: list[Any] = [orjson.dumps(request.id)]
        contents: list[bytes] = []
        for read, binary_type in columns:
            if binary_type is None:
                values += (rows, orjson.dumps(read(prediction)))
            else:
                content = v2_binary.pack(binary_type, read(prediction))
                values += (rows, len(content))
                contents.append(content)
        json_body = template % tuple(values)
        return (b"".join((json_body, *contents)), len(json_body)) if contents else (json_body, None)
    outputs = v2.encode_outputs(prediction, request.requested, request.explain)
    raw = v2_binary.take_out(outputs, request.binary) if request.binary else ()
    head = orjson.dumps(
        {"model_name": model, "model_version": version, "id": request.id, "parameters": {}, "outputs": outputs}
    )
    return (b"".join((head, *raw)), len(head)) if raw else (head, None)


@lru_cache(256)
def _template(
    model: str, version: str, requested: tuple[str, ...], binary: frozenset[str], source: int | None = None
) -> tuple[bytes, list[tuple[Reader, str | None]]]:
    """Return what the answers to a kind of request have in common, as a format of bytes, and what fills it.

    It takes the id, then for each output its rows and its values, or its rows and the size of its raw content; an
    output that is wanted as raw content comes with its datatype. source: where the features of the one row come from,
    in answers of one row, which take the id and the values alone.
    """
    parts = []
    readers: list[tuple[Reader, str | None]] = []
    for output in CONTRACT.outputs:
        if output.name not in requested:
            continue
        data = b'"data":%b'
        if output.name in binary:
            data = b'"parameters":{"binary_data_size":%d}'
        elif source is not None and output.role == "source":
            data = b'"data":' + _literal([FEATURE_SOURCES[source]])
        if b"%" in data:
            readers.append((READERS[output.name], output.datatype if output.name in binary else None))
        rows = b"%d" if source is None else b"1"
        name, datatype = _literal(output.name), _literal(output.datatype)
        parts.append(b'{"name":%b,"shape":[%b,%d],"datatype":%b,%b}' % (name, rows, output.columns, datatype, data))
    head = b'{"model_name":%b,"model_version":%b,"id":%%b,"parameters":{}' % (_literal(model), _literal(version))
    return b'%b,"outputs":[%b]}' % (head, b",".join(parts)), readers


def _literal(value: object) -> bytes:
    return orjson.dumps(value).replace(b"%", b"%%")


def _only_key(inputs: list[Any]) -> list[Any] | None:
    """Return the key of the usual request, which has one row and no other input; None: it is another one.

    What it takes, `_read_tensor` and `v2.decode` take, too: a tensor, its rows and a query are not made one by one.
    """
    if len(inputs) != 1 or type(inputs[0]) is not dict:
        return None
    given = inputs[0]
    fields = given.keys()
    if fields != _PLAIN_TENSOR and (fields != _TENSOR_FIELDS or _parameters(given) is None):
        return None
    shape, data = given["shape"], given["data"]
    if (
        given["name"] == v2.KEY
        and shape in v2.ONE_ROW
        and type(shape[0]) is int
        and type(shape[-1]) is int
        and given["datatype"] in _KEY_DATATYPES
        and type(data) is list
        and len(data) == 1
        and v2.accepts_key(data[0])
    ):
        return data
    return None


def _read_tensors(inputs: list[Any], raw: v2_binary.Contents | None) -> list[v2.Tensor] | None:
    tensors = []
    for given in inputs:
        tensor = _read_tensor(given, raw)
        if tensor is None:
            return None
        tensors.append(tensor)
    return tensors


def _read_tensor(given: Any, raw: v2_binary.Contents | None) -> v2.Tensor | None:
    if type(given) is not dict:
        return None
    fields = given.keys()
    if fields == _PLAIN_TENSOR:
        parameters = _NO_PARAMETERS
    elif fields <= _TENSOR_FIELDS:
        readable = _parameters(given)
        if readable is None:
            return None
        parameters = readable
    else:
        return None
    name, shape, datatype, data = given.get("name"), given.get("shape"), given.get("datatype"), given.get("data")
    if type(name) is not str or type(shape) is not list:
        return None
    if type(datatype) is not str or datatype not in _DATATYPES:
        return None
    for length in shape:
        if type(length) is not int:
            return None
    size = None if raw is None else parameters.get("binary_data_size")
    if raw is not None and size is not None:
        if data is not None:
            raise InvalidInput(f"input {quoted(name)} has both data and binary_data_size; allowed: one of them")
        data = raw.read(name, datatype, size)
    elif type(data) is not list:
        return None
    return v2.Tensor(name, datatype, shape, data)


def _read_outputs(
    outputs: Any, explain: int | None, *, binary_by_default: bool
) -> tuple[tuple[str, ...], frozenset[str]] | None:
    if type(outputs) is not list or len(outputs) > _MOST_ELEMENTS:
        return None
    names: list[str] = []
    as_bytes: list[bool] = []
    for output in outputs:
        if type(output) is not dict or not output.keys() <= _OUTPUT_FIELDS or type(output.get("name")) is not str:
            return None
        wanted = None
        if len(output) > 1:
            parameters = _parameters(output)
            if parameters is None:
                return None
            wanted = parameters.get("binary_data")
        names.append(output["name"])
        as_bytes.append(wanted if wanted is True or wanted is False else binary_by_default)
    return _wanted_outputs(tuple(names), tuple(as_bytes), explain, binary_by_default)


@lru_cache(256)
def _wanted_outputs(
    names: tuple[str, ...], as_bytes: tuple[bool, ...], explain: int | None, binary_by_default: bool
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return what is requested, and which of it as raw bytes; of a name that comes twice the last decides."""
    requested = v2.check_outputs(names, explain)
    wanted = dict.fromkeys(requested, binary_by_default) | dict(zip(names, as_bytes, strict=True))
    return requested, frozenset(name for name in requested if wanted[name])


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the parameters of a request, an input or an output; None: what only MLServer's own route explains."""
    parameters = holder.get("parameters")
    if parameters is None:
        return _NO_PARAMETERS
    if type(parameters) is not dict or "headers" in parameters:
        return None
    content_type = parameters.get("content_type")
    return parameters if content_type is None or type(content_type) is str else None


def timeout_s_of(microseconds: Any) -> float | None:
    """Return the parameter `timeout` in seconds, None where none is set. Raises InvalidInput."""
    if microseconds is None or microseconds == 0:
        return None
    if type(microseconds) not in (int, float) or not microseconds > 0:
        raise InvalidInput(f"parameter 'timeout' is {quoted(microseconds)}; allowed: microseconds, a positive number")
    return float(microseconds) / 1e6


def _check_size(body: bytes) -> None:
    if body.count(b"{") > _MOST_OBJECTS or body.count(b"[") > _MOST_LISTS:
        raise InvalidInput(f"the body has too many parts; allowed: {_MOST_OBJECTS} objects and {_MOST_LISTS} lists")
