"""Ten thousand requests that nobody should send: no 5xx, no crash, no memory, no metric series.

Hypothesis makes requests from the contract's own names and from what breaks parsers; each goes through every transport, as it
is, raw, cut and with bytes turned. schemathesis adds what it makes of our own /openapi.json.
"""

import contextlib
import http.client
import json
import math
import random
import re
import struct
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import grpc
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from tritonclient.grpc import service_pb2 as pb

from custom_runtime.active import CONTRACT
from tests.support.programs import GUARD_S
from tests.support.serving import Server, World, memory_mb, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

EXAMPLES = 1_250
WANTED_CASES = 10_000
REST_ALLOWED = {200, 404, 405, 413, 422}
GRPC_ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
# What 10,000 requests may leave behind: caches, fragments, one large body's buffers.
GROWTH_LIMIT_MB = 64
LONGEST_ERROR_BYTES = 8_192

NAMES = ["customer_id", *(feature.name for feature in CONTRACT.features)]
ODD_NUMBERS = [
    0,
    1,
    -1,
    42,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**40,
    1.5,
    -0.0,
    1e308,
    5e-324,
    math.nan,
    math.inf,
]
ODD_TEXTS = [
    "",
    "\0",
    "\ud800",
    "é" * 50,
    "x" * 2_000,
    "{[",
    "Weekly",
    "One year",
    "Yes",
    "'; --",
    "${jndi:x}",
    "../..",
]
scalars = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)
deep = st.builds(
    lambda depth, of: json.loads("[" * depth + of + "]" * depth),
    st.integers(1, 900),
    st.sampled_from(["1", '{"a":1}', ""]),
)
values = st.one_of(
    scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=4), scalars, max_size=2), deep
)
shapes = st.one_of(
    st.sampled_from(
        [
            [1],
            [1, 1],
            [2],
            [0],
            [-1],
            [1, 2],
            [],
            [1, 1, 1],
            [2**31],
            [2**62],
            [2**63 - 1],
            [2**70],
            [1] * 40,
            ["1"],
            [1.5],
            None,
        ]
    ),
    st.lists(st.integers(-2, 4), max_size=3),
)
datatypes: st.SearchStrategy[Any] = st.sampled_from(
    ["INT64", "FP32", "FP64", "BYTES", "FP16", "BOOL", "int64", "", "INT64\0", None, 3, ["INT64"], {}]
)
good_key = st.just({"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]})
tensors = st.one_of(
    good_key,
    st.sampled_from(
        [
            {"name": "tenure_months", "shape": [1, 1], "datatype": "FP32", "data": [12.5]},
            {"name": "monthly_charges", "shape": [1], "datatype": "FP64", "data": [70]},
            {"name": "contract", "shape": [1], "datatype": "BYTES", "data": ["One year"]},
        ]
    ),
    st.fixed_dictionaries(
        {
            "name": st.one_of(st.sampled_from([*NAMES, *NAMES, "nobody"]), scalars),
            "shape": shapes,
            "datatype": datatypes,
            "data": values,
        },
        optional={"parameters": values, "more": scalars},
    ),
)
v2_requests = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(tensors, max_size=4), st.tuples(good_key, tensors).map(list), values)},
    optional={"id": scalars, "parameters": values, "outputs": values},
)
predict_bodies = st.one_of(
    st.dictionaries(st.one_of(st.sampled_from([*NAMES, "customer_id"]), st.text(max_size=5)), values, max_size=5),
    values,
)


class Doors:
    """One keep-alive connection and one channel; counts what was sent and checks every answer."""

    def __init__(self, server: Server) -> None:
        self.seen: Counter[str] = Counter()
        self.connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=GUARD_S)
        self.channel = grpc.insecure_channel(server.grpc)
        self.call = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def rest(self, path: str, body: bytes, method: str = "POST", headers: dict[str, str] | None = None) -> None:
        self.connection.request(method, path, body, headers or {})
        answer = self.connection.getresponse()
        content = answer.read()
        self.seen[f"rest {answer.status}"] += 1
        assert answer.status in REST_ALLOWED, (method, path, body[:500], answer.status, content)
        if answer.status != 200 and method != "HEAD":
            assert set(json.loads(content)) == {"error", "code"}
            assert len(content) < LONGEST_ERROR_BYTES

    def rpc(self, message: bytes) -> None:
        try:
            self.call(message, timeout=GUARD_S)
            outcome, details = "OK", ""
        except grpc.RpcError as error:
            outcome, details = error.code().name, error.details()
        self.seen[f"grpc {outcome}"] += 1
        assert outcome in GRPC_ALLOWED, (message[:500], outcome, details)
        assert len(details) < LONGEST_ERROR_BYTES

    def __enter__(self) -> "Doors":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.channel.close()


@pytest.fixture(scope="module")
def patient_server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose deadlines a loaded machine does not break: a 504 would say nothing about the input."""
    patient = {"SERVING_DEADLINE_MS": "30000", "SERVING_STORE_TIMEOUT_MS": "10000"}
    with serving(world.environment | patient, tmp_path_factory.mktemp("fuzz") / "log") as running:
        yield running


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def damaged(body: bytes, dice: random.Random) -> bytes:
    """Cut a body, turn some of its bytes, or put one piece of it in twice."""
    kind = dice.randrange(3)
    start, stop = sorted((dice.randrange(len(body) + 1), dice.randrange(len(body) + 1)))
    if kind == 0:
        return body[:start]
    if kind == 1:
        return body[:stop] + body[start:]
    turned = bytearray(body)
    for _ in range(min(3, len(turned))):
        turned[dice.randrange(len(turned))] = dice.randrange(256)
    return bytes(turned)


def to_message(request: dict[str, Any], dice: random.Random, *, raw: bool) -> bytes:
    """Return a protobuf message as near to a JSON request as its types allow."""
    message = pb.ModelInferRequest(model_name=dice.choice(["churn"] * 9 + [f"nobody-{dice.random()}"]))
    inputs = request["inputs"]
    for each in inputs if isinstance(inputs, list) else []:
        if not isinstance(each, dict) or not {"name", "shape", "datatype", "data"} <= each.keys():
            continue
        shape = [length for length in each["shape"] or [] if isinstance(length, int) and abs(length) < 2**63]
        added = message.inputs.add(name=_text(each["name"]), datatype=_text(each["datatype"]), shape=shape)
        data = each["data"] if isinstance(each["data"], list) else [each["data"]]
        numbers = [int(value) if isinstance(value, bool) else value for value in data if isinstance(value, int | float)]
        if raw:
            kind = {"INT64": "<q", "FP32": "<f", "FP64": "<d"}.get(added.datatype)
            content = (
                b"".join(_packed(kind, value) for value in numbers) if kind else dice.randbytes(dice.randrange(12))
            )
            message.raw_input_contents.append(damaged(content, dice) if dice.random() < 0.2 else content)
            if dice.random() < 0.1:
                message.raw_input_contents.append(b"\0")
            continue
        contents = added.contents
        contents.int64_contents.extend(value for value in numbers if isinstance(value, int) and abs(value) < 2**63)
        contents.fp64_contents.extend(float(value) for value in numbers if not abs(value) >= 1e300)
        contents.fp32_contents.extend(float(value) for value in numbers if not abs(value) >= 1e30)
        contents.bytes_contents.extend(
            value.encode("utf-8", "surrogatepass") for value in data if isinstance(value, str)
        )
    return message.SerializeToString()


def _text(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _packed(kind: str, value: float) -> bytes:
    try:
        return struct.pack(kind, value)
    except (struct.error, OverflowError):
        return b"\xff" * struct.calcsize(kind)


def series(server: Server) -> set[str]:
    text = httpx.get(server.metrics).text
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if line and not line.startswith("#")}


def test_ten_thousand_bad_requests_get_an_answer_of_the_table(patient_server: Server) -> None:
    with Doors(patient_server) as transports:
        bombarded(patient_server, transports, random.Random(20))


def bombarded(server: Server, transports: Doors, dice: random.Random) -> None:
    infer = "/v2/models/churn/infer"

    @seed(20)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(v2_requests, predict_bodies)
    def bombard(request: dict[str, Any], predict: Any) -> None:
        body, small = to_json(request), to_json(predict)
        transports.rest(infer, body)
        transports.rest(infer, to_json(request | {"parameters": {"a": 1}}))
        transports.rest(infer, damaged(body, dice))
        transports.rest("/predict", small)
        transports.rest("/predict", damaged(small, dice))
        typed = to_message(request, dice, raw=False)
        transports.rpc(typed)
        transports.rpc(to_message(request, dice, raw=True))
        transports.rpc(damaged(typed, dice))
        name = dice.choice(["nobody", "%ff", "a%00b", "%ed%a0%80", "..", "churn%20", "x" * 300]) + str(
            dice.randrange(10**6)
        )
        where = dice.choice(
            ["/infer", "", "/ready", "/versions/7/infer", "/versions/%ff", "/generate", "/docs", "/infer/"]
        )
        transports.rest(
            f"/v2/models/{name}{where}", b"{}", dice.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
        )

    transports.rest("/predict", b'{"customer_id": 42}')
    transports.rest(infer, b'{"inputs": [{"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}]}')
    before_mb = memory_mb(server)
    started = time.monotonic()
    bombard()
    elapsed_s = time.monotonic() - started
    cases = transports.seen.total()
    grown_mb = memory_mb(server) - before_mb
    print(f"{cases} cases in {elapsed_s:.1f} s, {grown_mb:+d} MB: {dict(sorted(transports.seen.items()))}")
    assert cases >= WANTED_CASES
    assert {"rest 200", "rest 422", "rest 404", "grpc OK", "grpc INVALID_ARGUMENT", "grpc NOT_FOUND"} <= set(
        transports.seen
    )
    assert server.process.poll() is None
    assert grown_mb < GROWTH_LIMIT_MB
    assert "request_failed" not in server.log.read_text()
    labels = series(server)
    assert {match[1] for each in labels if (match := re.search(r'model="([^"]*)"', each))} == {"churn"}
    assert not [each for each in labels if "nobody" in each or "%" in each or len(each) > 300]


def test_what_schemathesis_makes_of_our_openapi_gets_an_answer_of_the_table(patient_server: Server) -> None:
    document = httpx.get(f"{patient_server.rest}/openapi.json").json()
    with Doors(patient_server) as transports:
        tried = _sent(transports, document, patient_server.rest)
    print(f"{transports.seen.total()} cases: {dict(sorted(transports.seen.items()))}")
    assert {"POST /predict", "POST /v2/models/churn/infer"} <= tried
    assert transports.seen.total() > 80
    assert transports.seen["rest 422"] > 20


def _sent(transports: Doors, document: dict[str, Any], base: str) -> set[str]:
    tried = set()
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = cast(Any, result).ok()
        tried.add(f"{operation.method.upper()} {operation.path}")
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @seed(20)
            @settings(
                max_examples=25,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode))
            def send(case: Any) -> None:
                request = httpx.Request(**_request(case, base))
                transports.rest(request.url.raw_path.decode(), request.read(), request.method)

            with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with an operation that takes nothing
                send()
    return tried


def _request(case: Any, base: str) -> dict[str, Any]:
    body = case.body
    content = None if type(body).__name__ == "NotSet" else body if isinstance(body, bytes) else to_json(body)
    return {"method": case.method, "url": base + case.formatted_path, "content": content}
