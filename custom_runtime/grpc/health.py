"""grpc.health.v1, for kubelets, meshes and clients. The messages have one field each.

A service is "" (the server), a service that is served here, or a model's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from custom_runtime.errors import InvalidInput, ServingError, UnknownModel, quoted
from custom_runtime.grpc.reflection import HEALTH, message_class

if TYPE_CHECKING:
    from custom_runtime.loaded_models import LoadedModels

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WATCH_TICK_S = 0.25  # readiness is a flag of the models, which announce nothing

_Request: Any = message_class("grpc.health.v1.HealthCheckRequest")
_Response: Any = message_class("grpc.health.v1.HealthCheckResponse")


class Health:
    """Answers from what is loaded; draining is NOT_SERVING."""

    def __init__(self, models: LoadedModels, services: Collection[str]) -> None:
        self._models = models
        self._services = frozenset(services) | {HEALTH}
        self.is_closing = False

    async def check(self, message: bytes) -> bytes:
        """Answer the state of one service. Raises UnknownModel (NOT_FOUND)."""
        service = _service(message)
        status = self._status(service)
        if status == SERVICE_UNKNOWN:
            raise UnknownModel(f"{quoted(service)} is neither a service nor a model of this server")
        return _write(status)

    async def watch(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Answer the state of one service now and whenever it changes, until the caller leaves or the port closes."""
        service = _service(await anext(messages, b""))
        last = None
        while not self.is_closing:
            status = self._status(service)
            if status != last:
                last = status
                yield _write(status)
            await asyncio.sleep(WATCH_TICK_S)

    def _status(self, service: str) -> int:
        is_model = service in self._models.names() or self._models.is_foreign(service)
        if service and not is_model and service not in self._services:
            return SERVICE_UNKNOWN
        try:
            self._models.check_ready(service if is_model else None)
        except ServingError:
            return NOT_SERVING
        return SERVING


def _service(message: bytes) -> str:
    try:
        return str(_Request.FromString(message).service)
    except DecodeError:
        raise InvalidInput("the message is no HealthCheckRequest") from None


def _write(status: int) -> bytes:
    content: bytes = _Response(status=status).SerializeToString()
    return content
