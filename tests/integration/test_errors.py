"""The error table of the service: every row, over REST, V2 REST and V2 gRPC."""

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.support.certificates import Authority
from tests.support.programs import GUARD_S, eventually, is_listening
from tests.support.serving import Server, World, serving

pytestmark = pytest.mark.integration

KEY: dict[str, Any] = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}


def tensor(name: str, datatype: str, data: list[object], shape: list[int] | None = None) -> dict[str, object]:
    return {"name": name, "shape": [len(data)] if shape is None else shape, "datatype": datatype, "data": data}


PREDICT = [
    # body, status, code, what the message says
    (b'{"customer_id": "x"}', 422, "invalid_input", "customer_id is 'x'; allowed: an integer from 0"),
    (b'{"customer_id": true}', 422, "invalid_input", "customer_id is True"),
    (b'{"customer_id": 1.5}', 422, "invalid_input", "customer_id is 1.5"),
    (b'{"customer_id": "42"}', 422, "invalid_input", "customer_id is '42'"),
    (b'{"customer_id": -1}', 422, "invalid_input", "customer_id is -1"),
    (b'{"customer_id": 9223372036854775808}', 422, "invalid_input", "customer_id is 9223372036854775808"),
    (b'{"customer_id": null}', 422, "invalid_input", "customer_id is None"),
    (b'{"tenure_months": 1}', 422, "invalid_input", "customer_id is missing"),
    (b'{"customer_id": 42, "colour": "red"}', 422, "invalid_input", "unknown field 'colour'; allowed: customer_id,"),
    (b'{"customer_id": 42, "tenure_months": NaN}', 422, "invalid_input", "tenure_months is nan"),
    (b'{"customer_id": 42, "tenure_months": -1}', 422, "invalid_input", "tenure_months is -1; allowed: a finite number from 0 to 600 months"),
    (b'{"customer_id": 42, "tenure_months": "12"}', 422, "invalid_input", "tenure_months is '12'"),
    (b'{"customer_id": 42, "tenure_months": 1e400}', 422, "invalid_input", "tenure_months is inf"),
    (b'{"customer_id": 42, "tenure_months": null}', 422, "invalid_input", "leave the field out to use the stored value"),
    (b'{"customer_id": 42, "contract": "Weekly"}', 422, "invalid_input", "contract is 'Weekly'; allowed: one of 'Month-to-month'"),
    (b'{"customer_id": 42', 422, "invalid_input", "the body is not JSON (EOF"),
    (b"", 422, "invalid_input", "the body is not JSON"),
    (b"[42]", 422, "invalid_input", "the body is [42]; allowed: a JSON object"),
    (b'"\xff"', 422, "invalid_input", "the body is not JSON"),
    (b'{"customer_id": 987654321}', 404, "unknown_key", "customer_id 987654321 is not in the feature store"),
    (b" " * 10_000_000, 413, "too_large", "the body has 10000000 bytes; allowed: 65536"),
]  # fmt: skip

V2 = [
    # inputs, status, code, gRPC status, message
    ([], 422, "invalid_input", "INVALID_ARGUMENT", "input 'customer_id' is missing"),
    ([tensor("customer_id", "FP64", [42.0])], 422, "invalid_input", "INVALID_ARGUMENT", "has datatype 'FP64'; allowed: INT64"),
    ([tensor("customer_id", "INT64", [42], [2])], 422, "invalid_input", "INVALID_ARGUMENT", "has 1 values for shape [2]; allowed: 2"),
    ([tensor("customer_id", "INT64", [42], [1, 2])], 422, "invalid_input", "INVALID_ARGUMENT", "has shape [1, 2]; allowed: [n] or [n, 1]"),
    ([tensor("customer_id", "INT64", [], [0])], 422, "invalid_input", "INVALID_ARGUMENT", "at least one row"),
    ([tensor("customer_id", "INT64", [-1])], 422, "invalid_input", "INVALID_ARGUMENT", "customer_id[0] is -1"),
    ([KEY, KEY], 422, "invalid_input", "INVALID_ARGUMENT", "'customer_id' is given twice"),
    ([KEY, tensor("tenure_months", "FP32", [1.0, 2.0])], 422, "invalid_input", "INVALID_ARGUMENT", "has 2 rows, 'customer_id' has 1"),
    ([KEY, tensor("tenure_months", "FP32", [-1.0])], 422, "invalid_input", "INVALID_ARGUMENT", "tenure_months[0] is -1; allowed"),
    ([KEY, tensor("tenure_months", "BYTES", ["1"])], 422, "invalid_input", "INVALID_ARGUMENT", "allowed: FP32 or FP64"),
    ([KEY, tensor("contract", "BYTES", ["Weekly"])], 422, "invalid_input", "INVALID_ARGUMENT", "contract[0] is 'Weekly'"),
    ([KEY, tensor("colour", "BYTES", ["red"])], 422, "invalid_input", "INVALID_ARGUMENT", "unknown input 'colour'"),
    ([tensor("customer_id", "INT64", [42, 987654321])], 404, "unknown_key", "NOT_FOUND", "customer_id[1] 987654321 is not in"),
    ([tensor("customer_id", "INT64", [1] * 100_001)], 413, "too_large", "RESOURCE_EXHAUSTED", "the batch has 100001 rows"),
]  # fmt: skip

FIELDS = {"INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}


def to_pb(inputs: list[dict[str, Any]], model: str = "churn") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    for each in inputs:
        added = request.inputs.add(name=each["name"], datatype=each["datatype"], shape=each["shape"])
        values = [value.encode() if isinstance(value, str) else value for value in each["data"]]
        getattr(added.contents, FIELDS[each["datatype"]]).extend(values)
    return request


@pytest.fixture(scope="module")
def stub(server: Server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


def assert_error(answer: httpx.Response, status: int, code: str, message: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error", "code"}
    assert body["code"] == code
    assert message in body["error"]
    assert "Traceback" not in body["error"]


@pytest.mark.parametrize(("body", "status", "code", "message"), PREDICT, ids=lambda value: repr(value)[:40])
def test_predict_refuses(client: httpx.Client, body: bytes, status: int, code: str, message: str) -> None:
    assert_error(client.post("/predict", content=body), status, code, message)
    assert client.post("/predict", content=b'{"customer_id": 42}').status_code == 200


@pytest.mark.parametrize(("inputs", "status", "code", "_grpc", "message"), V2, ids=lambda value: repr(value)[:40])
def test_v2_rest_refuses(
    client: httpx.Client, inputs: list[dict[str, Any]], status: int, code: str, _grpc: str, message: str
) -> None:
    assert_error(client.post("/v2/models/churn/infer", json={"inputs": inputs}), status, code, message)


@pytest.mark.parametrize(("inputs", "_status", "code", "expected", "message"), V2, ids=lambda value: repr(value)[:40])
def test_v2_grpc_refuses(
    stub: GRPCInferenceServiceStub,
    inputs: list[dict[str, Any]],
    _status: int,
    code: str,
    expected: str,
    message: str,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(to_pb(inputs), timeout=GUARD_S)
    assert caught.value.code().name == expected
    assert message in caught.value.details()
    assert dict(caught.value.trailing_metadata())["error-code"] == code


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v2/models/nope/infer", b'{"inputs": []}', 404, "unknown_model"),
        ("POST", "/v2/models/churn/versions/99/infer", b'{"inputs": []}', 404, "unknown_model"),
        ("GET", "/v2/models/nope", b"", 404, "unknown_model"),
        ("GET", "/v2/models/nope/ready", b"", 404, "unknown_model"),
        ("GET", "/nope", b"", 404, "not_found"),
        ("GET", "/predict", b"", 405, "method_not_allowed"),
        ("DELETE", "/v2/models/churn/infer", b"", 405, "method_not_allowed"),
        ("POST", "/v2/repository/models/churn/unload", b"", 403, "forbidden"),
        ("POST", "/v2/repository/models/churn/load", b"", 403, "forbidden"),
        ("POST", "/v2/repository/index", b"{}", 403, "forbidden"),
        ("POST", "/v2/models/churn/infer", b"{broken", 422, "invalid_input"),
        ("POST", "/v2/models/churn/infer", b"", 422, "invalid_input"),
        ("POST", "/v2/models/churn/infer", b'{"inputs": [{"name": "customer_id"}]}', 422, "invalid_input"),
        ("POST", "/v2/models/churn/infer", b'{"inputs": 3}', 422, "invalid_input"),
        ("POST", "/v2/models/churn/infer", b" " * 40_000_000, 413, "too_large"),
    ],
)
def test_other_routes_refuse(client: httpx.Client, method: str, path: str, body: bytes, status: int, code: str) -> None:
    assert_error(client.request(method, path, content=body), status, code, "")


def test_an_unknown_output_is_refused(client: httpx.Client, stub: GRPCInferenceServiceStub) -> None:
    body = {"inputs": [KEY], "outputs": [{"name": "colour"}]}
    assert_error(client.post("/v2/models/churn/infer", json=body), 422, "invalid_input", "unknown output 'colour'")
    request = to_pb([KEY])
    request.outputs.add(name="colour")
    with pytest.raises(grpc.RpcError, match="unknown output 'colour'"):
        stub.ModelInfer(request, timeout=GUARD_S)


def test_grpc_refuses_unknown_models_and_the_admin_api(server: Server, stub: GRPCInferenceServiceStub) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        # MLServer's second path to the same API; an empty message is a message of any type.
        prefix = "/inference.model_repository.ModelRepositoryService/"
        second = [channel.unary_unary(prefix + name) for name in ("RepositoryModelUnload", "RepositoryIndex")]
        calls = [
            (stub.ModelInfer, to_pb([KEY], "nope"), "NOT_FOUND"),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name="nope"), "NOT_FOUND"),
            (stub.RepositoryIndex, pb.RepositoryIndexRequest(), "PERMISSION_DENIED"),
            (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="churn"), "PERMISSION_DENIED"),
            (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="churn"), "PERMISSION_DENIED"),
            *((each, b"", "PERMISSION_DENIED") for each in second),
        ]
        for call, request, expected in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=GUARD_S)
            assert caught.value.code().name == expected
    assert stub.ModelReady(pb.ModelReadyRequest(name="churn"), timeout=GUARD_S).ready


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([b"\x01" * 8, b""], "raw_input_contents has 2 entries for 1 inputs"),
        ([b"\x01" * 7], "has 7 raw bytes; allowed: a multiple of 8"),
        ([b""], "has 0 values for shape [1]"),
    ],
)
def test_raw_grpc_contents_that_do_not_fit_are_refused(
    stub: GRPCInferenceServiceStub, raw: list[bytes], message: str
) -> None:
    request = pb.ModelInferRequest(model_name="churn", raw_input_contents=raw)
    request.inputs.add(name="customer_id", datatype="INT64", shape=[1])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=GUARD_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in caught.value.details()


def test_plain_mlserver_start_refuses_predict_bodies_alike(client: httpx.Client, plain_server: Server) -> None:
    with httpx.Client(base_url=plain_server.rest) as plain:
        for body, status, _code, _message in PREDICT:
            theirs = plain.post("/predict", content=body)
            assert theirs.status_code == status
            if status != 413:  # one knows the size from the header, the other stops reading
                assert theirs.content == client.post("/predict", content=body).content


def raw_answer(
    server: Server, path: str, body: bytes, tls: ssl.SSLContext | None = None
) -> tuple[bytes, list[bytes], bytes]:
    """Return the status line, the headers, sorted, and the body, as they came over the wire.

    Left out: the date, and the CloudEvents headers that only MLServer's own route adds.
    """
    with contextlib.ExitStack() as stack:
        connection: socket.socket = stack.enter_context(socket.create_connection(("127.0.0.1", server.http_port), 30))
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(connection, server_hostname="127.0.0.1"))
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    lines, _, content = answer.partition(b"\r\n\r\n")
    status, *headers = lines.split(b"\r\n")
    return status, sorted(line for line in headers if not line.startswith((b"date:", b"ce-"))), content


def test_plain_routes_answer_byte_for_byte_as_the_protocol_does_over_tls_too(
    server: Server, client: httpx.Client, world: World, tmp_path: Path
) -> None:
    good = [
        {"id": "a", "inputs": [KEY]},
        {"id": "a", "inputs": [tensor("customer_id", "INT64", [[1], [2]], [2, 1])]},
        {"id": "a", "inputs": [KEY, tensor("tenure_months", "FP64", [3]), tensor("contract", "BYTES", ["One year"])]},
        {"id": "a", "inputs": [tensor("customer_id", "INT64", list(range(1, 500)))]},
        {"id": "é", "inputs": [KEY], "outputs": [{"name": "churn_probability"}]},
        {"id": "", "inputs": [KEY], "outputs": [], "parameters": None},
        {"id": "a", "inputs": [{**KEY, "parameters": {"content_type": "np"}}], "parameters": {"content_type": "np"}},
        {"id": "a", "inputs": [KEY], "outputs": [{"name": "features", "parameters": {"binary_data": False}}]},
        {"id": "a", "inputs": [KEY], "parameters": {"timeout": 400_000, "priority": 1, "anything": [1]}},
        {"id": "a", "inputs": [KEY, tensor("tenure_months", "INT32", [3]), tensor("monthly_charges", "INT64", [70])]},
        {"id": "a", "inputs": [tensor("customer_id", "INT32", [7]), tensor("total_charges", "BOOL", [True])]},
        {"id": "a", "inputs": [KEY], "more": 1},
    ]
    bad = [{"id": "a", "inputs": inputs} for inputs, *_ in V2] + [{"inputs": [{"name": 3}]}, {"id": 4}, []]
    wrong_parameters: list[object] = [[], "x", {"content_type": 1}, {"timeout": -1}]
    wrong_outputs: list[object] = [3, [3], [{"name": "x"}], [{"more": 1}]]
    bad += [{"id": "a", "inputs": [KEY], "parameters": wrong} for wrong in wrong_parameters]
    bad += [{"id": "a", "inputs": [KEY], "outputs": wrong} for wrong in wrong_outputs]
    bad += [{"id": "a", "inputs": [{**KEY, "parameters": []}]}, {"id": "a", "inputs": [{**KEY, "data": None}]}]
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    over_tls = {"SERVING_TLS_CERT": str(pair.cert), "SERVING_TLS_KEY": str(pair.key)}
    tls = ssl.create_default_context(cafile=str(authority.pair.cert))
    with (
        serving(world.environment | {"SERVING_FAST_ROUTES": "0"}, tmp_path / "log") as slow_server,
        serving(world.environment | over_tls, tmp_path / "log-tls", ready=False) as tls_server,
        httpx.Client(base_url=slow_server.rest) as slow,
    ):
        eventually(lambda: is_listening(tls_server.http_port))
        requests = [("/v2/models/churn/infer", json.dumps(request).encode()) for request in good + bad]
        requests += [("/predict", row[0]) for row in PREDICT if len(row[0]) < 100_000]
        requests += [("/predict", b'{"customer_id": 7}'), ("/predict", b'{"customer_id": 7, "partner": "Yes"}')]
        for path, body in requests:
            plainly = raw_answer(slow_server, path, body)
            assert raw_answer(server, path, body) == plainly, body
            assert raw_answer(tls_server, path, body, tls) == plainly, body
        assert [raw_answer(server, *request)[0] for request in requests[: len(good)]] == [b"HTTP/1.1 200 OK"] * len(
            good
        )
        fresh = [each.post("/v2/models/churn/infer", json={"inputs": [KEY]}).json() for each in (client, slow)]
        assert len(fresh[0].pop("id")) == len(fresh[1].pop("id")) == 36
        assert fresh[0] == fresh[1]
