"""The queries that each server gets, how its answers are read, and the check that all servers give the same answers."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
import orjson

from benchmarks.compare.inputs import Inputs
from benchmarks.errors import MeasurementError
from benchmarks.load.target import Protocol, Target, key_bodies, path_of, v2_grpc_message, v2_rest_body
from custom_runtime.active import CONTRACT

Json = dict[str, object]
STOCK_NOTE = "is sent the feature vector: the client has looked the features up before the clock starts"
TOLERANCE = 1e-5
_OUTPUT = CONTRACT.outputs[0].name
_WANTED: Json = {"name": _OUTPUT}
STRIDE = 293  # 25 of the 7,043 rows; a prime, so that no pattern of the table is followed
TIMEOUT_S = 10.0
_COUNTED = r'^serving_request_seconds_count\{(?=[^}]*code="200")(?=[^}]*route="v2_grpc")[^}]*\} (\S+)$'
_COUNTED_BY_MLSERVER = r'^grpc_server_handled_total\{(?=[^}]*grpc_code="OK")[^}]*\} (\S+)$'


@dataclass(frozen=True, slots=True)
class Query:
    """Bodies in the order of the keys of the inputs. note: how it differs from the others, for the report.

    counter: gRPC only, a pattern of the good answers' counter on the server's metrics page; its group is the value.
    headers: beside the content type, which they may replace.
    """

    path: str
    bodies: tuple[bytes, ...]
    read: Callable[[bytes], float]
    is_grpc: bool = False
    note: str = ""
    counter: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def predict(inputs: Inputs) -> Query:
    """POST /predict with the key."""
    bodies = key_bodies(Protocol.PREDICT, CONTRACT.name, inputs.keys)
    return Query("/predict", tuple(bodies), _predicted)


def bento_predict(inputs: Inputs) -> Query:
    """BentoML names the argument: {"input": {...}}."""
    bodies = key_bodies(Protocol.PREDICT, CONTRACT.name, inputs.keys)
    return Query("/predict", tuple(b'{"input": %s}' % body for body in bodies), _predicted)


def v2_rest(inputs: Inputs) -> Query:
    """V2 REST, one row, the key."""
    bodies = key_bodies(Protocol.V2_REST, CONTRACT.name, inputs.keys)
    return Query(path_of(Protocol.V2_REST, CONTRACT.name), tuple(bodies), _v2)


def v2_rest_outputs(inputs: Inputs) -> Query:
    """V2 REST, one row, the key, as tritonclient sends it with `binary=False`: an id, parameters, requested outputs."""
    bodies = [orjson.dumps(_as_tritonclient(key) | {"outputs": [_WANTED]}) for key in inputs.keys]
    return Query(path_of(Protocol.V2_REST, CONTRACT.name), tuple(bodies), _v2)


def v2_rest_binary(inputs: Inputs) -> Query:
    """V2 REST, one row, the key, as tritonclient sends it by default: raw tensors behind the JSON, both ways."""
    head = _as_tritonclient(None) | {"outputs": [_WANTED | {"parameters": {"binary_data": True}}]}
    json_head = orjson.dumps(head)
    bodies = [json_head + key.to_bytes(8, "little") for key in inputs.keys]
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(json_head))}
    return Query(path_of(Protocol.V2_REST, CONTRACT.name), tuple(bodies), _v2_raw, headers=headers)


def _as_tritonclient(key: int | None) -> Json:
    tensor: Json = {"name": CONTRACT.row_field, "shape": [1, 1], "datatype": "INT64"}
    if key is None:
        return {"id": "1", "inputs": [tensor | {"parameters": {"binary_data_size": 8}}]}
    return {"id": "1", "inputs": [tensor | {"parameters": {"content_type": "np"}, "data": [key]}]}


def v2_grpc(inputs: Inputs) -> Query:
    """V2 gRPC, one row, the key."""
    bodies = key_bodies(Protocol.V2_GRPC, CONTRACT.name, inputs.keys)
    return Query(path_of(Protocol.V2_GRPC, CONTRACT.name), tuple(bodies), _v2_message, is_grpc=True, counter=_COUNTED)


def stock_rest(inputs: Inputs) -> Query:
    """V2 REST, one row, the feature vector."""
    bodies = [v2_rest_body("features", "FP32", row.tolist()) for row in inputs.rows]
    return Query(path_of(Protocol.V2_REST, f"{CONTRACT.name}-xgboost"), tuple(bodies), _v2, note=STOCK_NOTE)


def stock_grpc(inputs: Inputs) -> Query:
    """V2 gRPC, one row, the feature vector."""
    bodies = [v2_grpc_message(f"{CONTRACT.name}-xgboost", "features", "FP32", row.tolist()) for row in inputs.rows]
    return Query(
        path_of(Protocol.V2_GRPC, "x"),
        tuple(bodies),
        _v2_message,
        is_grpc=True,
        note=STOCK_NOTE,
        counter=_COUNTED_BY_MLSERVER,
    )


def big_batch(inputs: Inputs, rows: int) -> Query:
    """V2 REST with many rows in one request."""
    ids = [inputs.keys[number % len(inputs.keys)] for number in range(rows)]
    body = v2_rest_body(CONTRACT.row_field, "INT64", ids, rows=rows)
    return Query(path_of(Protocol.V2_REST, CONTRACT.name), (body,), _v2)


def constant(inputs: Inputs) -> Query:
    """Return the query of the bare ASGI app; it answers with a constant, so its answers are not compared."""
    return Query("/predict", predict(inputs).bodies, lambda answer: float("nan"))


def _predicted(answer: bytes) -> float:
    return float(json.loads(answer)[_OUTPUT])


def _v2(answer: bytes) -> float:
    outputs = json.loads(answer)["outputs"]
    return float(next(output for output in outputs if output["name"] in (_OUTPUT, "predict"))["data"][0])


def _v2_raw(answer: bytes) -> float:
    return float(struct.unpack("<d", answer[-8:])[0])


def _v2_message(answer: bytes) -> float:
    from tritonclient.grpc import service_pb2  # generated code, which only gRPC needs

    message = service_pb2.ModelInferResponse.FromString(answer)
    output = next(output for output in message.outputs if output.name in (_OUTPUT, "predict"))
    contents = output.contents
    return float((contents.fp64_contents or contents.fp32_contents)[0])


def sampled(inputs: Inputs) -> range:
    """Return the positions of the rows in the sample."""
    return range(0, len(inputs.keys), STRIDE)


def answers(target: Target, query: Query, inputs: Inputs) -> list[float]:
    """Return a server's probabilities for the sample. Raises MeasurementError when it answers one with an error."""
    ask = _ask_grpc if query.is_grpc else _ask_rest
    return [ask(target, query, position) for position in sampled(inputs)]


def check_agreement(title: str, given: list[float], reference: list[float]) -> float:
    """Return the largest difference; NaN (a constant answer) is not compared. Raises MeasurementError beyond 1e-5."""
    differences = [abs(one - other) for one, other in zip(given, reference, strict=True) if not math.isnan(one)]
    largest = max(differences, default=0.0)
    if largest > TOLERANCE:
        raise MeasurementError(f"{title} disagrees by {largest:.2g}; allowed: {TOLERANCE:g}; nothing was measured")
    return largest


def _ask_rest(target: Target, query: Query, position: int) -> float:
    url = f"http://{target.authority}{query.path}"
    try:
        headers = {"Content-Type": "application/json", **query.headers}
        answer = httpx.post(url, content=query.bodies[position], headers=headers, timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        raise MeasurementError(f"{url} does not answer: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise MeasurementError(f"{url}: {answer.status_code} {answer.content[:200]!r}")
    return query.read(answer.content)


def _ask_grpc(target: Target, query: Query, position: int) -> float:
    import grpc  # an independent client, not that of the load test

    with grpc.insecure_channel(target.authority) as channel:
        call = channel.unary_unary(query.path)
        try:
            return query.read(call(query.bodies[position], timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            raise MeasurementError(f"{target.authority}{query.path}: {error}") from error
