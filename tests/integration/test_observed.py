"""A running server seen from outside: traces, request ids and the access log, over REST and both gRPC engines."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.support.otlp_collector import Collector, Span, otlp_collector
from tests.support.programs import GUARD_S, eventually
from tests.support.serving import Server, World, serving

pytestmark = pytest.mark.integration

PARENT = "00f067aa0ba902b7"
INFER = "inference.GRPCInferenceService/ModelInfer"
V2_BODY = {"inputs": [{"name": "customer_id", "datatype": "INT64", "shape": [1, 1], "data": [42]}]}


class Observed(NamedTuple):
    server: Server
    collector: Collector

    def lines(self, **values: object) -> list[dict[str, Any]]:
        """The log's lines with these values."""
        found = [json.loads(line) for line in self.server.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if all(line.get(name) == value for name, value in values.items())]


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def observed(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    log = tmp_path_factory.mktemp(request.param) / "log"
    with otlp_collector() as collector:
        environment = world.environment | {
            "SERVING_GRPC_ENGINE": request.param,
            "SERVING_ACCESS_LOG": "1",
            "MLSERVER_TRACING_SERVER": collector.address,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with serving(environment, log) as running:
            yield Observed(running, collector)


def steps(spans: list[Span], server_name: str) -> None:
    """Check that the server's span has the store fetch and the scoring below it, within its time."""
    (server,) = [span for span in spans if span.name == server_name]
    assert server.parent == PARENT
    children = [span for span in spans if span.parent == server.id]
    assert {span.name for span in children} == {"feature_store.fetch", "scoring"}
    assert all(server.start_ns <= span.start_ns <= span.end_ns <= server.end_ns for span in children)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/predict", {"customer_id": 42}, "POST /predict"),
        ("/v2/models/churn/infer", V2_BODY, "POST /v2/models/{model_name}/infer"),
        (
            "/v2/models/churn/infer",
            V2_BODY | {"parameters": {"content_type": "np"}},
            "POST /v2/models/{model_name}/infer",
        ),
    ],
)
def test_rest(observed: Observed, path: str, body: dict[str, Any], name: str) -> None:
    request_id = f"rest-{len(observed.collector.spans)}-{len(str(body))}"
    trace_id = f"{abs(hash((request_id, observed.server.http_port))) + 1:032x}"
    answer = httpx.post(
        observed.server.rest + path,
        json=body,
        headers={"traceparent": f"00-{trace_id}-{PARENT}-01", "x-request-id": request_id},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == request_id
    assert answer.headers["traceparent"].split("-")[1] == trace_id
    steps(observed.collector.wait((name, "feature_store.fetch", "scoring"), trace_id=trace_id), name)
    (line,) = eventually(lambda: observed.lines(event="request", request_id=request_id))
    assert (line["path"], line["status"], line["trace_id"], line["client"]) == (path, 200, trace_id, "127.0.0.1")


def test_grpc(observed: Observed) -> None:
    trace_id = f"{observed.server.grpc_port:032x}"
    request = pb.ModelInferRequest(model_name="churn")
    request.inputs.add(name="customer_id", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(42)
    with grpc.insecure_channel(observed.server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = (("traceparent", f"00-{trace_id}-{PARENT}-01"), ("x-request-id", "grpc-1"))
        _, call = stub.ModelInfer.with_call(request, metadata=metadata, timeout=GUARD_S)
        _, described = stub.ServerMetadata.with_call(
            pb.ServerMetadataRequest(), metadata=(("x-request-id", "grpc-2"),), timeout=GUARD_S
        )
        request.model_name = "nothing"
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, metadata=(("x-request-id", "grpc-3"),), timeout=GUARD_S)
    headers = dict(call.initial_metadata())
    assert headers["x-request-id"] == "grpc-1"
    assert headers["traceparent"].split("-")[1] == trace_id
    assert dict(described.initial_metadata())["x-request-id"] == "grpc-2"
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    # Where an answer is trailers alone, grpc gives its headers as trailers.
    assert "traceparent" in {**dict(refused.value.initial_metadata()), **dict(refused.value.trailing_metadata())}
    steps(observed.collector.wait((INFER, "feature_store.fetch", "scoring"), trace_id=trace_id), INFER)
    (line,) = eventually(lambda: observed.lines(event="request", request_id="grpc-1"))
    assert (line["path"], line["status"], line["trace_id"]) == (f"/{INFER}", 200, trace_id)
    assert eventually(lambda: observed.lines(event="request", request_id="grpc-2"))
    (line,) = eventually(lambda: observed.lines(event="request", request_id="grpc-3"))
    assert (line["status"], line["code"]) == (404, "unknown_model")


def test_errors_and_health(observed: Observed) -> None:
    answer = httpx.post(f"{observed.server.rest}/predict", content=b"{", headers={"x-request-id": "bad"})
    assert answer.status_code == 422
    assert answer.headers["x-request-id"] == "bad"
    assert "traceparent" in answer.headers
    (line,) = eventually(lambda: observed.lines(event="request", request_id="bad"))
    assert (line["status"], line["code"]) == (422, "invalid_input")
    assert httpx.get(f"{observed.server.rest}/v2/health/ready").status_code == 200
    assert not [line for line in observed.lines(event="request") if "ready" in str(line.get("path"))]
