"""Small requests that became gigabytes, minutes or a 500: each is refused soon, by a server that stays small."""

import gzip
import json
import socket
from collections.abc import Iterator

import grpc
import httpx
import pytest

from tests.support.programs import GUARD_S
from tests.support.serving import Server, World, cpu_s, memory_mb, serving

pytestmark = pytest.mark.integration

MIB = 1 << 20
LIMIT = 8 * MIB - 1_000
LONGEST_CPU_S = 10.0  # of the server, whatever else the machine does; the worst had taken 40 s
# What 8 MiB of integers take as a message, as a list, and in the buffers between.
GROWTH_LIMIT_MB = 400
INFER = "/v2/models/churn/infer"
KEY = b'{"name":"customer_id","shape":[1],"datatype":"INT64","data":['


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def filled(start: bytes, piece: bytes, end: bytes) -> bytes:
    return start + piece * ((LIMIT - len(start) - len(end)) // len(piece)) + end


REST = {
    "empty inputs": filled(b'{"inputs":[{}', b",{}", b"]}"),
    "inputs that are numbers": filled(b'{"inputs":[0', b",0", b"]}"),
    "outputs that are numbers": filled(b'{"inputs":[],"outputs":[0', b",0", b"]}"),
    "a shape of text": filled(b'{"inputs":[{"shape":[""', b',""', b"]}]}"),
    "a body of objects": filled(b"[{}", b",{}", b"]"),
    "lists as data": filled(b'{"inputs":[' + KEY + b"[]", b",[]", b"]}]}"),
    "numbers for one row": filled(b'{"inputs":[' + KEY + b"0", b",0", b"]}]}"),
    "one value that is long": filled(b'{"inputs":[' + KEY + b"[0", b",0", b"]]}]}"),
    "a name that is long": filled(b'{"inputs":[{"name":"', b"x", b'","shape":[1],"datatype":"INT64","data":[1]}]}'),
    "deep data": b'{"inputs":[' + KEY + nested(1_010) + b"]}]}",
    "deep data, replayed": b'{"parameters":{},"inputs":[' + KEY + nested(1_010) + b"]}]}",
    "a deep name": b'{"inputs":[{"name":' + nested(1_015) + b"}]}",
    "too deep to read": nested(500_000),
    "a datatype that is a list": b'{"inputs":[{"name":"customer_id","shape":[1],"datatype":[1],"data":[1]}]}',
}
RPC = {
    "empty inputs": b"\x2a\x00",
    "empty outputs": b"\x32\x00",
    "empty raw contents": b"\x3a\x00",
    "empty parameters": b"\x22\x00",
    "an input in a thousand pieces": b"\x2a\x06\x1a\x00\x1a\x00\x1a\x00",
    "groups": b"\x0b\x0c",
}


@pytest.fixture(scope="module")
def target(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(world.environment, tmp_path_factory.mktemp("bombs") / "log") as running:
        yield running


@pytest.mark.parametrize("name", REST)
def test_a_body_that_would_grow_is_refused(target: Server, name: str) -> None:
    before_mb, before_s = memory_mb(target), cpu_s(target)
    answer = httpx.post(target.rest + INFER, content=REST[name], timeout=GUARD_S)
    assert answer.status_code == 422, answer.text[:500]
    assert len(answer.content) < 8_192
    assert cpu_s(target) - before_s < LONGEST_CPU_S
    assert memory_mb(target, "VmHWM") - before_mb < GROWTH_LIMIT_MB
    assert httpx.post(target.rest + "/predict", content=b'{"customer_id": 42}').status_code == 200


@pytest.mark.parametrize("name", RPC)
def test_a_message_that_would_grow_is_refused(target: Server, name: str) -> None:
    before_mb, before_s = memory_mb(target), cpu_s(target)
    with grpc.insecure_channel(target.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(filled(b"\n\x05churn", RPC[name], b""), timeout=GUARD_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert cpu_s(target) - before_s < LONGEST_CPU_S
    assert memory_mb(target, "VmHWM") - before_mb < GROWTH_LIMIT_MB


@pytest.mark.parametrize(
    "message", [b"\xff" * 40, b"\n\x20ab", b"\n\x02\xff\xfe", b"\x1a\x02\xff\xfe" + b"\n\x05churn"]
)
def test_bytes_that_are_no_message_are_the_callers_fault(target: Server, message: bytes) -> None:
    with grpc.insecure_channel(target.grpc) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(message, timeout=GUARD_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        # In a stream it is the error of this message alone: the stream goes on.
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        first, second = stream(iter([message, message]), timeout=GUARD_S)
        assert b"the message is no ModelInferRequest" in first
        assert first == second


@pytest.mark.parametrize(
    "method",
    [
        *(f"GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata")),
        *(f"GRPCInferenceService/{name}" for name in ("ModelMetadata", "RepositoryIndex", "RepositoryModelLoad")),
        "model_repository.ModelRepositoryService/RepositoryModelUnload",
    ],
)
def test_bytes_that_are_no_message_are_so_for_methods_without_tensors_too(target: Server, method: str) -> None:
    with grpc.insecure_channel(target.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/inference.{method}")(b"\xff" * 40, timeout=GUARD_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"the message is no {method.rpartition('/')[2]}Request"
    assert dict(caught.value.trailing_metadata())["error-code"] == "invalid_input"


def test_a_message_over_the_limit_is_refused(target: Server) -> None:
    with grpc.insecure_channel(target.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\x22\x00" * (5 * MIB), timeout=GUARD_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_body_is_not_unpacked(target: Server) -> None:
    before_mb = memory_mb(target)
    bomb = gzip.compress(b" " * (200 * MIB), 1)
    answer = httpx.post(target.rest + INFER, content=bomb, headers={"Content-Encoding": "gzip"}, timeout=GUARD_S)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
    assert memory_mb(target, "VmHWM") - before_mb < GROWTH_LIMIT_MB


def test_a_body_with_many_problems_gets_a_short_answer(client: httpx.Client) -> None:
    fields = {f"unknown_{number}": number for number in range(3_000)}
    answer = client.post("/predict", json={"customer_id": 42, **fields})
    assert answer.status_code == 422
    assert "and 2990 more" in answer.json()["error"]
    assert len(answer.content) < 8_192


def test_an_error_in_plain_words_for_a_body_that_is_not_json(client: httpx.Client) -> None:
    assert client.post(INFER, content=b"{broken").json()["error"].startswith("the body is not JSON (")


@pytest.mark.parametrize(
    "route", ["generate", "infer_stream", "generate_stream", "docs", "docs/dataplane.json", "infer/"]
)
def test_mlservers_side_doors_are_closed(client: httpx.Client, route: str) -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
    for place in ("/v2/models/churn/", "/v2/models/churn/versions/1/", "/v2/"):
        answers = [client.post(place + route, json={"inputs": [key]}), client.get(place + route)]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 2


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: abc", "Content-Length: -5", "Content-Length: +2", "Content-Length: " + "9" * 5_000,
        "Content-Length: 2\r\nContent-Length: 3", "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\n\r\nzz", "X-\xff: 1",
    ],
)  # fmt: skip
def test_a_broken_head_gets_400_and_the_server_lives_on(server: Server, client: httpx.Client, head: str) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=GUARD_S) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n{{}}".encode("latin-1"))
        assert connection.recv(4_096).startswith(b"HTTP/1.1 400 ")
    assert client.post("/predict", json={"customer_id": 42}).status_code == 200


def test_a_surrogate_in_a_body_is_answered_in_utf_8(client: httpx.Client) -> None:
    for path, body in (("/predict", b'{"customer_id":42,"\\ud800":1}'), (INFER, b'{"inputs":[{"name":"\\udfff"}]}')):
        answer = client.post(path, content=body)
        assert answer.status_code == 422
        assert json.loads(answer.content.decode())["code"] == "invalid_input"
