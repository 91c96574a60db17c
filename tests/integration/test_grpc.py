"""gRPC as real clients call it: both engines answer every method alike."""

import asyncio
import contextlib
import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from tests.support.programs import GUARD_S, eventually
from tests.support.serving import Server, World, serving

pytestmark = pytest.mark.integration

SERVICE = "/inference.GRPCInferenceService/"
SERVICES = {
    "inference.GRPCInferenceService",
    "inference.model_repository.ModelRepositoryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def engine(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp(request.param) / "log"
    with serving(world.environment | {"SERVING_GRPC_ENGINE": request.param}, log) as running:
        yield running


@pytest.fixture
def channel(engine: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(engine.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as opened:
        yield opened


def typed(*ids: int, request_id: str = "", model: str = "churn") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    request.inputs.add(name="customer_id", datatype="INT64", shape=[len(ids)]).contents.int64_contents.extend(ids)
    return request


def given(*ids: int) -> list[tritonclient.grpc.InferInput]:
    tensor = tritonclient.grpc.InferInput("customer_id", [len(ids), 1], "INT64")
    tensor.set_data_from_numpy(np.array(ids, np.int64).reshape(-1, 1))
    return [tensor]


def outcome(call: Callable[[], Any]) -> tuple[str, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return (
        caught.value.code().name,
        caught.value.details(),
        dict(caught.value.trailing_metadata()).get("error-code", ""),
    )


def test_every_method_answers_alike_on_both_engines(engine: Server, server: Server, channel: grpc.Channel) -> None:
    """`server` is the default engine's."""
    calls = [
        ("ServerLive", pb.ServerLiveRequest()),
        ("ServerReady", pb.ServerReadyRequest()),
        ("ModelReady", pb.ModelReadyRequest(name="churn")),
        ("ModelReady", pb.ModelReadyRequest(name="nope")),
        ("ServerMetadata", pb.ServerMetadataRequest()),
        ("ModelMetadata", pb.ModelMetadataRequest(name="churn", version="1")),
        ("ModelInfer", typed(42, request_id="a")),
        ("ModelInfer", typed(1, 2, 3, request_id="b")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="nope")),
        ("ModelInfer", typed(42, model="nope")),
        ("ModelInfer", typed(987654321)),
        ("RepositoryIndex", pb.RepositoryIndexRequest()),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="churn")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="churn")),
    ]

    def ask(on: grpc.Channel, name: str, message: bytes) -> object:
        try:
            return on.unary_unary(SERVICE + name)(message, timeout=GUARD_S)
        except grpc.RpcError as error:
            return error.code(), error.details(), error.trailing_metadata()

    with grpc.insecure_channel(server.grpc) as default:
        for name, request in calls:
            message = request.SerializeToString()
            assert ask(channel, name, message) == ask(default, name, message), name


def test_triton_clients_work(engine: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(engine.grpc) as client:
        assert client.is_server_live()
        assert client.is_model_ready("churn")
        answer = client.infer("churn", given(42, 43), request_id="mine")
        assert answer.get_response().id == "mine"
        assert answer.as_numpy("churn_probability").shape == (2, 1)
        assert (answer.as_numpy("features") == b"store").all()
        packed = client.infer("churn", given(*range(1, 2_000)), compression_algorithm="gzip")
        assert len(packed.as_numpy("churn_probability")) == 1_999
        done: queue.Queue[Any] = queue.Queue()
        client.async_infer("churn", given(42), callback=lambda result, error: done.put((result, error)))
        result, error = done.get(timeout=GUARD_S)
        assert error is None
        assert result.as_numpy("churn_probability")[0] == answer.as_numpy("churn_probability")[0]


async def test_triton_clients_work_in_an_event_loop(engine: Server) -> None:
    async with tritonclient.grpc.aio.InferenceServerClient(engine.grpc) as client:
        answers = await asyncio.gather(*(client.infer("churn", given(number)) for number in range(1, 60)))
        assert len({answer.get_response().id for answer in answers}) == 59  # each got an id of its own

        async def requests() -> Any:
            for number in (1, 987654321, 3):
                yield {"model_name": "churn", "inputs": given(number), "request_id": str(number)}

        seen = []
        async for result, error in client.stream_infer(requests()):
            seen.append((result.get_response().id if error is None else "", str(error or "")))
        assert [request_id for request_id, _ in seen] == ["1", "", "3"]
        assert "987654321 is not in the feature store" in seen[1][1]


def test_a_triton_stream_answers_a_bad_message_as_its_own_error_and_goes_on(engine: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(engine.grpc) as client:
        done: queue.Queue[Any] = queue.Queue()
        client.start_stream(callback=lambda result, error: done.put((result, error)))
        for number in range(300):
            bad = number % 10 == 5
            client.async_stream_infer("nope" if bad else "churn", given(number + 1), request_id=str(number))
        for number in range(300):
            result, error = done.get(timeout=GUARD_S)
            if number % 10 == 5:
                assert isinstance(error, InferenceServerException)
                assert "'nope' is not served here" in str(error)
            else:
                assert error is None
                assert result.get_response().id == str(number)
        client.stop_stream()


def test_an_mlserver_stream_is_answered_in_its_own_form(channel: grpc.Channel) -> None:
    stream = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    first, bad, last = stream(iter([typed(1, request_id="a"), typed(-1, request_id="b"), typed(2)]), timeout=GUARD_S)
    assert (first.model_name, first.id, first.outputs[0].shape) == ("churn", "a", [1, 1])
    assert bad.id == "b"
    assert not bad.outputs
    assert "customer_id[0] is -1" in bad.parameters["error"].string_param
    assert bad.parameters["error-code"].string_param == "invalid_input"
    assert last.outputs
    raw = channel.stream_stream(SERVICE + "ModelStreamInfer", None, pb.ModelStreamInferResponse.FromString)
    broken, good = raw(iter([b"\xff\xff", typed(1).SerializeToString() + b"\x3a\x00"]), timeout=GUARD_S)
    assert "no ModelInferRequest" in broken.error_message
    assert "raw bytes" in good.error_message or "values for shape" in good.error_message


def test_ids_are_made_as_over_rest(engine: Server, channel: grpc.Channel) -> None:
    stub = GRPCInferenceServiceStub(channel)
    ids = [stub.ModelInfer(typed(42), timeout=GUARD_S).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(len(each) == 36 for each in ids)


def test_the_timeout_parameter_is_kept(engine: Server) -> None:
    with tritonclient.grpc.InferenceServerClient(engine.grpc) as client:
        assert client.infer("churn", given(42), timeout=10_000_000).as_numpy("features") is not None
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("churn", given(42), timeout=1)
    assert engine.samples("serving_request_seconds_count", route="v2_grpc", code="504") >= 1


def test_a_call_that_its_caller_cancels_is_no_success_and_no_error(engine: Server, channel: grpc.Channel) -> None:
    def counted(code: str) -> float:
        return engine.samples("serving_request_seconds_count", route="v2_grpc", code=code)

    before = {code: counted(code) for code in ("499", "500", "504")}
    slow = typed(*[number % 7_000 + 1 for number in range(100_000)])
    stub = GRPCInferenceServiceStub(channel)
    stub.ModelInfer(typed(42), timeout=GUARD_S)

    def leave() -> bool:
        call = stub.ModelInfer.future(slow, timeout=GUARD_S)
        with contextlib.suppress(grpc.FutureTimeoutError):
            call.result(timeout=0.05)  # until then the server has seen it, on an idle machine
        call.cancel()
        return counted("499") > before["499"]

    eventually(leave)
    assert (counted("500"), counted("504")) == (before["500"], before["504"])


def test_what_reaches_no_model_is_counted_by_its_code(engine: Server, channel: grpc.Channel) -> None:
    before = engine.samples("serving_refused_total", protocol="grpc", code="unknown_model")
    assert outcome(lambda: GRPCInferenceServiceStub(channel).ModelInfer(typed(1, model="nope"), timeout=GUARD_S)) == (
        "NOT_FOUND",
        "model 'nope' is not served here; served: churn",
        "unknown_model",
    )
    assert engine.samples("serving_refused_total", protocol="grpc", code="unknown_model") == before + 1


def test_health_is_answered_as_kubelets_ask(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "churn", "inference.GRPCInferenceService", "grpc.health.v1.Health"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=GUARD_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert outcome(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=GUARD_S))[0] == "NOT_FOUND"
    watching = stub.Watch(health_pb2.HealthCheckRequest(service="churn"), timeout=GUARD_S)
    assert next(iter(watching)).status == health_pb2.HealthCheckResponse.SERVING
    watching.cancel()
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=GUARD_S)
    assert next(iter(unknown)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_tells_what_is_served(channel: grpc.Channel, version: str) -> None:
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="nope"),
    ]
    listed, described, missing = ask(iter(requests), timeout=GUARD_S)
    assert {each.name for each in listed.list_services_response.service} == SERVICES
    assert b"ModelInferRequest" in described.file_descriptor_response.file_descriptor_proto[0]
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_reflection_describes_itself(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health.Watch")
    (answer,) = stub.ServerReflectionInfo(iter([question]), timeout=GUARD_S)
    assert b"HealthCheckResponse" in answer.file_descriptor_response.file_descriptor_proto[0]


async def test_a_channel_outlives_its_connections(engine: Server) -> None:
    """zttp ends a connection after 4,096 calls; the engine moves a channel before that, and no call is lost."""
    message = typed(42).SerializeToString()
    async with grpc.aio.insecure_channel(engine.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(SERVICE + "ModelInfer")

        async def ask(count: int) -> None:
            for _ in range(count):
                await call(message, timeout=GUARD_S)

        await asyncio.gather(*(ask(350) for _ in range(20)))
