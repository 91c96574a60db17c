"""The method table that both gRPC engines carry: path -> what answers it. It knows no engine.

Messages are bytes on both sides. MLServer's data plane answers what is not an inference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from mlserver.errors import MLServerError
from mlserver.grpc import converters
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import model_repository_pb2 as repository_pb

from custom_runtime.errors import Forbidden, Internal, InvalidInput, ServingError
from custom_runtime.grpc.health import Health
from custom_runtime.grpc.inference import Inference
from custom_runtime.grpc.method import CallInfo, Method
from custom_runtime.grpc.other_runtimes import OtherRuntimes, translate
from custom_runtime.grpc.reflection import HEALTH, REFLECTION, Reflection
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.metrics import count_refused

log = structlog.get_logger()

INFERENCE = "inference.GRPCInferenceService"
REPOSITORY = "inference.model_repository.ModelRepositoryService"
SERVICES = (INFERENCE, REPOSITORY, HEALTH, *REFLECTION)
_LOCKED = "the model repository API is locked; SERVING_ADMIN_API=1 opens it"


class Methods:
    """Builds the table of one server."""

    def __init__(self, data_plane: Any, handlers: Any, models: LoadedModels, *, admin_api: bool) -> None:
        self._data_plane = data_plane
        self._handlers = handlers
        self._models = models
        self._admin_api = admin_api
        self._inference = inference = Inference(models, OtherRuntimes(data_plane))
        self._health = health = Health(models, SERVICES)
        reflection = Reflection((pb.DESCRIPTOR, repository_pb.DESCRIPTOR), SERVICES)
        table = [
            Method(f"/{INFERENCE}/ModelInfer", begin=inference.begin, on_refused=_count),
            Method(f"/{INFERENCE}/ModelStreamInfer", stream=inference.stream),
            self._plain("ServerLive", self._server_live, is_open=True),
            self._plain("ServerReady", self._server_ready, is_open=True),
            self._plain("ModelReady", self._model_ready, is_open=True),
            self._plain("ServerMetadata", self._server_metadata),
            self._plain("ModelMetadata", self._model_metadata),
            Method(f"/{HEALTH}/Check", unary=lambda message, info: health.check(message), is_open=True),
            Method(f"/{HEALTH}/Watch", stream=lambda messages, info: health.watch(messages), is_open=True),
            Method(f"/{REFLECTION[0]}/ServerReflectionInfo", stream=lambda messages, info: reflection.v1(messages)),
            Method(
                f"/{REFLECTION[1]}/ServerReflectionInfo", stream=lambda messages, info: reflection.v1alpha(messages)
            ),
        ]
        for service, messages in ((INFERENCE, pb), (REPOSITORY, repository_pb)):
            table += [
                self._plain("RepositoryIndex", self._index(messages), service, messages),
                self._plain("RepositoryModelLoad", self._load(messages), service, messages),
                self._plain("RepositoryModelUnload", self._unload(messages), service, messages),
            ]
        self.by_path = {method.path: method for method in table}

    def close_streams(self) -> None:
        """End the open streams: the port closes."""
        self._health.is_closing = True

    def close(self) -> None:
        """Free what the methods hold."""
        self._inference.close()

    def _plain(
        self,
        name: str,
        answer: Callable[[Any], Awaitable[Any]],
        service: str = INFERENCE,
        messages: Any = pb,
        *,
        is_open: bool = False,
    ) -> Method:
        """Return a unary method whose request is <Name>Request of `messages`."""
        parse = getattr(messages, f"{name}Request").FromString

        async def unary(message: bytes, info: CallInfo) -> bytes:
            try:
                request = parse(message)
            except DecodeError:
                raise InvalidInput(f"the message is no {name}Request") from None
            try:
                content: bytes = (await answer(request)).SerializeToString()
            except ServingError:
                raise
            except MLServerError as error:
                raise translate(error) from None
            except Exception:
                log.exception("request_failed", route=name)
                raise Internal from None
            return content

        return Method(f"/{service}/{name}", unary=unary, is_open=is_open)

    async def _server_live(self, request: Any) -> Any:
        return pb.ServerLiveResponse(live=await self._data_plane.live())

    async def _server_ready(self, request: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def _model_ready(self, request: Any) -> Any:
        ready = self._is_ready(request.name, request.version or None)
        if ready and self._models.is_foreign(request.name):
            ready = await self._data_plane.model_ready(name=request.name, version=request.version or None)
        return pb.ModelReadyResponse(ready=ready)

    async def _server_metadata(self, request: Any) -> Any:
        return converters.ServerMetadataResponseConverter.from_types(await self._data_plane.metadata())

    async def _model_metadata(self, request: Any) -> Any:
        if not self._models.is_foreign(request.name):
            self._models.find(request.name, request.version or None)
        metadata = await self._data_plane.model_metadata(name=request.name, version=request.version)
        return converters.ModelMetadataResponseConverter.from_types(metadata)

    def _index(self, messages: Any) -> Callable[[Any], Awaitable[Any]]:
        async def index(request: Any) -> Any:
            self._check_unlocked()
            found = await self._handlers.index(converters.RepositoryIndexRequestConverter.to_types(request))
            convert = converters.RepositoryIndexResponseConverter.from_types
            return convert(found, use_model_repository=messages is repository_pb)

        return index

    def _load(self, messages: Any) -> Callable[[Any], Awaitable[Any]]:
        async def load(request: Any) -> Any:
            self._check_unlocked()
            await self._handlers.load(request.model_name)
            return messages.RepositoryModelLoadResponse()

        return load

    def _unload(self, messages: Any) -> Callable[[Any], Awaitable[Any]]:
        async def unload(request: Any) -> Any:
            self._check_unlocked()
            await self._handlers.unload(request.model_name)
            return messages.RepositoryModelUnloadResponse()

        return unload

    def _check_unlocked(self) -> None:
        if not self._admin_api:
            raise Forbidden(_LOCKED)

    def _is_ready(self, name: str | None = None, version: str | None = None) -> bool:
        try:
            self._models.check_ready(name, version)
        except ServingError:
            return False
        return True


def _count(error: ServingError) -> None:
    count_refused("grpc", error.code)
