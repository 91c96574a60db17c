"""HTTP as real clients and attackers speak it, against the real server: floods, large bodies, binary tensors."""

import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http

from tests.support.http_replies import BODY, REQUEST
from tests.support.programs import GUARD_S, eventually
from tests.support.serving import Server, World, memory_mb, serving

pytestmark = pytest.mark.integration

MIB = 1 << 20
INFER = "/v2/models/churn/infer"
# A pod has 512 MiB.
MOST_MB = 400


@pytest.fixture(scope="module")
def target(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of these tests' own: its memory is looked at."""
    with serving(
        world.environment | {"SERVING_DEADLINE_MS": "3000"}, tmp_path_factory.mktemp("http") / "log"
    ) as running:
        yield running


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.http_port), 20)


def counted(server: Server, code: str) -> float:
    return server.samples("serving_request_seconds_count", route="predict", code=code)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_flood_of_headers_is_refused_before_it_takes_memory(target: Server) -> None:
    def flood() -> bytes:
        with connect(target) as connection:
            try:
                connection.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\n" + b"x: y\r\n" * 8_000_000)
            except OSError:
                return b"closed"
            return connection.recv(4_096)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: flood(), range(4)))
    assert all(b" 431 " in answer or answer == b"closed" for answer in answers)
    assert memory_mb(target, "VmHWM") < MOST_MB
    assert target.samples("serving_refused_total", code="headers_too_large") == 4


def test_250_bodies_of_8_mb_at_once_leave_a_small_server(target: Server) -> None:
    row = b'{"inputs":[{"name":"customer_id","shape":[1],"datatype":"INT64","data":[0'
    body = row + b",0" * (4_000_000 - len(row)) + b"]}]}"
    head = b"POST %b HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (INFER.encode(), len(body))
    together = threading.Barrier(25)

    def send(_: int) -> list[bytes]:
        """Ten connections of one thread, which take turns."""
        opened = [connect(target) for _ in range(10)]
        together.wait(GUARD_S)
        for connection in opened:
            connection.sendall(head + body[: 2 * MIB])
        for connection in opened:
            connection.sendall(body[2 * MIB :])
        answers = [connection.recv(4_096)[9:12] for connection in opened]
        for connection in opened:
            connection.close()
        return answers

    with ThreadPoolExecutor(25) as pool:
        statuses = Counter(status for answers in pool.map(send, range(25)) for status in answers)
    print(statuses, memory_mb(target, "VmHWM"), "MB at most")
    # Wrong (422), too many (503) or, on a busy machine, too slow (408).
    assert set(statuses) <= {b"422", b"503", b"408"}
    assert statuses[b"503"] > 100
    assert memory_mb(target, "VmHWM") < MOST_MB
    assert httpx.post(f"{target.rest}/predict", content=BODY).status_code == 200


def test_a_client_that_writes_first_and_then_reads_gets_its_413(target: Server) -> None:
    statuses = []
    for number in range(20):
        path, size = (("/predict", 1_000_000), (INFER, 12_000_000))[number % 2]
        try:
            urllib.request.urlopen(f"{target.rest}{path}", data=b" " * size, timeout=GUARD_S)
        except urllib.error.HTTPError as error:
            statuses.append((error.code, json.load(error)["code"]))
    assert statuses == [(413, "too_large")] * 20


@pytest.mark.parametrize("count", [1, 50])
def test_a_half_closed_client_gets_its_answers(target: Server, count: int) -> None:
    counted = target.samples("serving_request_seconds_count", route="predict", code="200")
    for _ in range(20):
        with connect(target) as connection:
            connection.sendall(REQUEST * count)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection).count(b"HTTP/1.1 200 OK") == count
    assert target.samples("serving_request_seconds_count", route="predict", code="200") == counted + 20 * count


def test_http_1_0_keep_alive_a_missing_host_and_the_parsers_own_refusals(target: Server) -> None:
    with connect(target) as connection:
        for _ in range(3):
            connection.sendall(REQUEST.replace(b"HTTP/1.1\r\nHost: here", b"HTTP/1.0\r\nConnection: keep-alive"))
            assert b"connection: keep-alive" in connection.recv(4_096)
    for wrong in (REQUEST.replace(b"Host: here\r\n", b""), b"hello\r\n\r\n", REQUEST.replace(b"POST", b"P ST")):
        with connect(target) as connection:
            connection.sendall(wrong)
            connection.shutdown(socket.SHUT_WR)
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request")
        assert json.loads(body)["code"] == "bad_request"


def test_http_2_without_asking_is_refused_in_its_own_words(target: Server) -> None:
    with connect(target) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        assert b"this port speaks HTTP/1.1" in connection.recv(4_096)


def test_outcomes_of_the_client_are_408_and_499_and_not_5xx(target: Server) -> None:
    with connect(target) as slow, connect(target) as gone:
        for connection in (slow, gone):
            connection.sendall(REQUEST[:-1])
        gone.close()
        assert b" 408 " in slow.recv(4_096)
    for code in ("408", "499"):
        eventually(partial(counted, target, code), lambda count: count == 1)
    assert counted(target, "504") == 0


def test_get_of_the_root_leads_to_the_docs_and_head_answers_as_get(client: httpx.Client) -> None:
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
    for path in ("/docs", "/openapi.json", "/v2", "/v2/models/churn", "/v2/health/ready", "/nope", "/predict"):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-length"] == str(len(get.content))
    assert client.post("/predict/", content=BODY).json() == client.post("/predict", content=BODY).json()


def test_the_request_id_is_in_the_answer_and_in_the_log(target: Server) -> None:
    answer = httpx.post(f"{target.rest}/predict", content=BODY, headers={"X-Request-Id": "abc"})
    assert answer.headers["x-request-id"] == "abc"
    answer = httpx.post(f"{target.rest}/v2/models/churn/infer", content=b"{", headers={"X-Request-Id": "abd"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (422, "abd")


def test_cors_headers_are_on_the_answer_as_on_the_preflight(world: World, tmp_path: Path) -> None:
    cors = {
        "MLSERVER_CORS_SETTINGS": json.dumps(
            {"allow_origins": ["https://a.example"], "allow_methods": ["*"], "allow_headers": ["*"]}
        ),
        "SERVING_TOKEN": "a-token-of-the-test",
    }
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with serving(world.environment | cors, tmp_path / "log") as server, httpx.Client(base_url=server.rest) as client:
        asked = client.options("/predict", headers=preflight)
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://a.example")
        bearer = {"Origin": "https://a.example", "Authorization": "Bearer a-token-of-the-test"}
        for path in ("/predict", INFER, "/v2/models/churn"):
            answer = client.post(path, content=BODY, headers=bearer)
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert client.post("/predict", content=BODY, headers=preflight).status_code == 401


# Binary tensors.


def infer(server: Server, *, binary: bool, outputs: bool, ids: list[int]) -> dict[str, list[object]]:
    with tritonclient.http.InferenceServerClient(server.rest.removeprefix("http://")) as client:
        key = tritonclient.http.InferInput("customer_id", [len(ids), 1], "INT64")
        key.set_data_from_numpy(np.array(ids).reshape(-1, 1), binary_data=binary)
        tenure = tritonclient.http.InferInput("tenure_months", [len(ids), 1], "FP32")
        tenure.set_data_from_numpy(np.full((len(ids), 1), 12, np.float32), binary_data=binary)
        contract = tritonclient.http.InferInput("contract", [len(ids), 1], "BYTES")
        contract.set_data_from_numpy(np.full((len(ids), 1), "One year", object), binary_data=binary)
        names = ("churn_probability", "features")
        wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=binary) for name in names]
        answer = client.infer(
            "churn", [key, tenure, contract], outputs=wanted if outputs else None, request_id="mine", timeout=400_000
        )
        assert answer.get_response()["id"] == "mine"
        data = {name: answer.as_numpy(name).ravel().tolist() for name in names}
    return {name: [each.decode() if isinstance(each, bytes) else each for each in of] for name, of in data.items()}


@pytest.mark.parametrize("rows", [1, 50, 5_000])
def test_tritonclient_gets_the_same_with_binary_tensors_and_without(server: Server, rows: int) -> None:
    ids = [number % 7_043 + 1 for number in range(rows)]
    plain = infer(server, binary=False, outputs=True, ids=ids)
    assert set(plain["features"]) == {"store"}
    assert infer(server, binary=True, outputs=True, ids=ids) == plain
    assert infer(server, binary=True, outputs=False, ids=ids) == plain  # asks for all outputs as binary


def test_what_triton_sends_takes_the_fast_path(server: Server) -> None:
    before = server.samples("rest_server_requests_total")
    infer(server, binary=True, outputs=True, ids=[1])
    infer(server, binary=False, outputs=True, ids=[1])
    assert server.samples("rest_server_requests_total") == before  # MLServer's routes saw nothing


@pytest.mark.parametrize(
    ("json_bytes", "raw", "size", "message"),
    [
        ("x", b"", 8, "Inference-Header-Content-Length is 'x'"),
        ("9999", b"\0" * 8, 8, "allowed: at most the body's"),
        (None, b"\0" * 8, 9, "binary_data_size 9; allowed: 0 to the 8 bytes left"),
        (None, b"\0" * 8, -1, "binary_data_size -1"),
        (None, b"\0" * 8, "8", "binary_data_size '8'"),
        (None, b"\0" * 7, 7, "7 raw bytes; allowed: a multiple of 8"),
        (None, b"\0" * 9, 8, "1 bytes follow the last input"),
        (None, b"\0" * 16, 16, "has 2 values for shape [1]"),
    ],
)
def test_binary_tensors_that_do_not_fit_are_refused(
    client: httpx.Client, json_bytes: str | None, raw: bytes, size: object, message: str
) -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [key]}).encode()
    headers = {"Inference-Header-Content-Length": json_bytes or str(len(head))}
    answer = client.post(INFER, content=head + raw, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), answer.text
    assert message in answer.json()["error"]


def test_a_timeout_that_is_too_short_is_a_504(world: World, tmp_path: Path) -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
    with serving(world.environment, tmp_path / "log") as server:
        answer = httpx.post(server.rest + INFER, json={"inputs": [key], "parameters": {"timeout": 0.001}})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_a_connection_answers_every_kind_of_request(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=GUARD_S)
    for _ in range(3):
        for method, path, body, status in (
            ("POST", "/predict", BODY, 200),
            ("POST", "/predict", b"{", 422),
            ("GET", "/v2/models/churn", None, 200),
            ("POST", INFER, b'{"inputs": 3}', 422),
            ("GET", "/nope", None, 404),
        ):
            connection.request(method, path, body)
            answer = connection.getresponse()
            assert answer.status == status
            answer.read()
    connection.close()
