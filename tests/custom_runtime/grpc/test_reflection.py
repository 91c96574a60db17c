"""Health and reflection, by the messages that gRPC's own packages would send."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from custom_runtime.errors import InvalidInput, NotReady, UnknownModel
from custom_runtime.grpc.health import NOT_SERVING, SERVING, Health
from custom_runtime.grpc.reflection import Reflection, message_class
from tests.support.programs import GUARD_S


class Models:
    """What health asks of the loaded models."""

    def __init__(self) -> None:
        self.is_ready = True

    def names(self) -> list[str]:
        return ["churn"]

    def is_foreign(self, name: str | None) -> bool:
        return False

    def check_ready(self, name: str | None = None) -> None:
        if not self.is_ready:
            raise NotReady("the server is draining")


async def given(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def asked(service: str) -> bytes:
    content: bytes = message_class("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString()
    return content


def status(content: bytes) -> int:
    return int(message_class("grpc.health.v1.HealthCheckResponse").FromString(content).status)


async def test_health_follows_readiness_by_server_service_and_model() -> None:
    models = Models()
    health = Health(models, ["a.Service"])  # type: ignore[arg-type]
    for service in ("", "a.Service", "churn"):
        assert status(await health.check(asked(service))) == SERVING
    models.is_ready = False
    assert status(await health.check(asked("churn"))) == NOT_SERVING
    with pytest.raises(UnknownModel, match="'nobody' is neither a service nor a model"):
        await health.check(asked("nobody"))
    with pytest.raises(InvalidInput):
        await health.check(b"\xff")


async def test_a_watcher_hears_of_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("custom_runtime.grpc.health.WATCH_TICK_S", 0.001)
    models = Models()
    health = Health(models, [])  # type: ignore[arg-type]
    watching = health.watch(given(asked("churn")))
    async with asyncio.timeout(GUARD_S):
        assert status(await anext(watching)) == SERVING
        models.is_ready = False
        assert status(await anext(watching)) == NOT_SERVING
        health.is_closing = True
        with pytest.raises(StopAsyncIteration):
            await anext(watching)


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
async def test_reflection_lists_services_and_gives_their_files(package: str) -> None:
    ask = message_class(f"{package}.ServerReflectionRequest")
    reply = message_class(f"{package}.ServerReflectionResponse")
    reflection = Reflection([], ["grpc.health.v1.Health"])
    questions = [
        ask(list_services=""),
        ask(file_containing_symbol="grpc.health.v1.Health.Check"),
        ask(file_containing_symbol="grpc.health.v1.HealthCheckResponse.ServingStatus"),
        ask(file_by_filename="nope.proto"),
        ask(),
    ]
    messages = given(*(question.SerializeToString() for question in questions))
    method = reflection.v1 if package.endswith("v1") else reflection.v1alpha
    listed, by_method, by_enum, missing, nothing = [reply.FromString(each) async for each in method(messages)]
    assert [each.name for each in listed.list_services_response.service] == ["grpc.health.v1.Health"]
    assert by_method.file_descriptor_response == by_enum.file_descriptor_response
    assert b"HealthCheckRequest" in by_method.file_descriptor_response.file_descriptor_proto[0]
    assert (missing.error_response.error_code, nothing.error_response.error_code) == (5, 12)
    with pytest.raises(InvalidInput):
        _ = [each async for each in method(given(b"\xff"))]
