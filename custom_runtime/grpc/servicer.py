"""V2 over gRPC: protobuf tensors <-> queries and predictions, and every error with its own status code.

gRPC methods that answer a message which cannot be read as the caller's mistake; gRPC itself answers UNKNOWN.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc import aio
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.model_repository import ModelRepositoryServicer
from mlserver.grpc.servicers import InferenceServicer

from custom_runtime.errors import Forbidden, Internal, InvalidInput, ServingError
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.protocol import v2
from custom_runtime.protocol.v2_proto import UNREADABLE, proto_response, read_request, read_tensors

log = structlog.get_logger()

INFERENCE = "inference.GRPCInferenceService"
REPOSITORY = "inference.model_repository.ModelRepositoryService"
_LOCKED = "the model repository API is locked; SERVING_ADMIN_API=1 opens it"
REPOSITORY_METHODS = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
PLAIN_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", *REPOSITORY_METHODS)


class TabularServicer(InferenceServicer):  # type: ignore[misc]
    """MLServer's inference service, with a short path for inference and our error table."""

    def __init__(self, data_plane: Any, handlers: Any, models: LoadedModels, *, admin_api: bool) -> None:
        super().__init__(data_plane, handlers)
        self._models = models
        self._admin_api = admin_api

    async def ModelInfer(self, request: Any, context: aio.ServicerContext) -> Any:
        """Answer one inference request."""
        started = time.perf_counter()
        runtime, status = None, 200
        try:
            runtime = self._models.find(request.model_name, request.model_version or None)
            runtime.predictor.admit()
            requested = v2.check_outputs([output.name for output in request.outputs])
            prediction = await runtime.infer(read_tensors(request), timeout_s=context.time_remaining())
            return proto_response(request, str(runtime.version), prediction, requested)
        except ServingError as error:
            if request is UNREADABLE:
                return await abort(context, InvalidInput("the message is no ModelInferRequest, or has too many parts"))
            status = error.status
            return await abort(context, error)
        except Exception:
            status = 500
            log.exception("request_failed", route="v2_grpc")
            return await abort(context, Internal())
        finally:
            if runtime is not None:
                runtime.metrics.observe_request("v2_grpc", status, time.perf_counter() - started)

    def methods(self) -> dict[str, Any]:
        """Return the handlers of all methods; messages with tensors are looked at before they are parsed."""
        write = pb.ModelInferResponse.SerializeToString
        return {
            **readable_methods(self, pb, PLAIN_METHODS),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self.ModelInfer, read_request, write),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self.ModelStreamInfer, read_request, write),
        }

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: aio.ServicerContext) -> AsyncIterator[Any]:
        """Answer each request of a stream, in order; the first error ends it."""
        async for request in requests:
            yield await self.ModelInfer(request, context)

    async def ServerReady(self, request: Any, context: aio.ServicerContext) -> Any:
        """Tell whether new requests are welcome."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ModelReady(self, request: Any, context: aio.ServicerContext) -> Any:
        """Tell whether a model, or one version of it, is ready."""
        return pb.ModelReadyResponse(ready=self._is_ready(request.name, request.version or None))

    async def ModelMetadata(self, request: Any, context: aio.ServicerContext) -> Any:
        """Describe a model's inputs and outputs."""
        try:
            self._models.find(request.name, request.version or None)
        except ServingError as error:
            return await abort(context, error)
        return await super().ModelMetadata(request, context)

    async def RepositoryIndex(self, request: Any, context: aio.ServicerContext) -> Any:
        """List the repository, where the admin API is open."""
        return await self._admin(super().RepositoryIndex, request, context)

    async def RepositoryModelLoad(self, request: Any, context: aio.ServicerContext) -> Any:
        """Load a model, where the admin API is open."""
        return await self._admin(super().RepositoryModelLoad, request, context)

    async def RepositoryModelUnload(self, request: Any, context: aio.ServicerContext) -> Any:
        """Unload a model, where the admin API is open."""
        return await self._admin(super().RepositoryModelUnload, request, context)

    def _is_ready(self, name: str | None = None, version: str | None = None) -> bool:
        try:
            self._models.check_ready(name, version)
        except ServingError:
            return False
        return True

    async def _admin(self, method: Any, request: Any, context: aio.ServicerContext) -> Any:
        if not self._admin_api:
            return await abort(context, Forbidden(_LOCKED))
        return await method(request, context)


class LockedRepositoryServicer(ModelRepositoryServicer):  # type: ignore[misc]
    """MLServer's second door to the same admin API: refuses every call."""

    async def RepositoryIndex(self, request: Any, context: aio.ServicerContext) -> Any:
        """Refuse."""
        return await abort(context, Forbidden(_LOCKED))

    RepositoryModelLoad = RepositoryModelUnload = RepositoryIndex


def readable_methods(servicer: Any, messages: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the handlers of unary methods, whose messages are <Name>Request and <Name>Response of `messages`."""
    return {name: _handler(getattr(servicer, name), messages, name) for name in names}


async def abort(context: aio.ServicerContext, error: ServingError) -> Any:
    """End a call with the status of an error, and its code as the trailing metadata `error-code`."""
    context.set_trailing_metadata((("error-code", error.code),))
    details = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    await context.abort(getattr(grpc.StatusCode, error.grpc), details)


def _handler(method: Callable[[Any, Any], Any], messages: Any, name: str) -> Any:
    parse = getattr(messages, f"{name}Request").FromString

    def read(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError:
            return None

    async def answer(request: Any, context: aio.ServicerContext) -> Any:
        if request is None:
            return await abort(context, InvalidInput(f"the message is no {name}Request"))
        return await method(request, context)

    write = getattr(messages, f"{name}Response").SerializeToString
    return grpc.unary_unary_rpc_method_handler(answer, read, write)
