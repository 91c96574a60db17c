"""V2 over gRPC: protobuf tensors <-> queries and predictions, and every error with its own status code."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np
import structlog
from grpc import aio
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.model_repository import ModelRepositoryServicer
from mlserver.grpc.servicers import InferenceServicer

from custom_runtime import v2
from custom_runtime.errors import Forbidden, Internal, InvalidInput, ServingError
from custom_runtime.models import LoadedModels
from custom_runtime.predictor import FEATURE_SOURCES, Prediction

log = structlog.get_logger()

_CONTENTS = {"INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
_RAW: dict[str, np.dtype[Any]] = {"INT64": np.dtype("<i8"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}
_LENGTH_BYTES = 4  # a raw BYTES element is its length, little-endian, then the bytes
_LOCKED = "the model repository API is locked; CHURN_ADMIN_API=1 opens it"


class ChurnServicer(InferenceServicer):  # type: ignore[misc]
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
            requested = v2.check_outputs([output.name for output in request.outputs])
            prediction = await runtime.infer(_tensors(request), timeout_s=context.time_remaining())
            return _response(request, str(runtime.version), prediction, requested)
        except ServingError as error:
            status = error.status
            return await _abort(context, error)
        except Exception:
            status = 500
            log.exception("request_failed", route="v2_grpc")
            return await _abort(context, Internal())
        finally:
            if runtime is not None:
                runtime.metrics.observe_request("v2_grpc", status, time.perf_counter() - started)

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
            return await _abort(context, error)
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
            return await _abort(context, Forbidden(_LOCKED))
        return await method(request, context)


class LockedRepositoryServicer(ModelRepositoryServicer):  # type: ignore[misc]
    """MLServer's second door to the same admin API: refuses every call."""

    async def RepositoryIndex(self, request: Any, context: aio.ServicerContext) -> Any:
        """Refuse."""
        return await _abort(context, Forbidden(_LOCKED))

    RepositoryModelLoad = RepositoryModelUnload = RepositoryIndex


async def _abort(context: aio.ServicerContext, error: ServingError) -> Any:
    context.set_trailing_metadata((("error-code", error.code),))
    details = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    await context.abort(getattr(grpc.StatusCode, error.grpc), details)


def _tensors(request: Any) -> list[v2.Tensor]:
    raw = request.raw_input_contents
    inputs = request.inputs
    if not raw:
        return [v2.Tensor(given.name, given.datatype, list(given.shape), _contents(given)) for given in inputs]
    if len(raw) != len(inputs):
        raise InvalidInput(f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs; allowed: one each")
    return [
        v2.Tensor(given.name, given.datatype, list(given.shape), _raw_values(given, content))
        for given, content in zip(inputs, raw, strict=True)
    ]


def _contents(given: Any) -> list[Any]:
    field = _CONTENTS.get(given.datatype)
    return list(getattr(given.contents, field)) if field else []


def _raw_values(given: Any, content: bytes) -> Any:
    if given.datatype == "BYTES":
        return _raw_bytes(given.name, content)
    dtype = _RAW.get(given.datatype)
    if dtype is None:
        return []
    if len(content) % dtype.itemsize:
        raise InvalidInput(
            f"input {given.name!r:.80} has {len(content)} raw bytes; allowed: a multiple of {dtype.itemsize}"
        )
    return np.frombuffer(content, dtype)


def _raw_bytes(name: str, content: bytes) -> list[bytes]:
    values: list[bytes] = []
    position, end = 0, len(content)
    while position < end:
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(content[position:start], "little")
        if start > end or position > end:
            raise InvalidInput(f"input {name!r:.80} has raw BYTES that end inside element {len(values)}")
        values.append(content[start:position])
    return values


def _response(request: Any, version: str, prediction: Prediction, requested: Sequence[str]) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=version, id=request.id)
    shape = (len(prediction.probabilities), 1)
    for name, datatype in v2.OUTPUTS:
        if name not in requested:
            continue
        output = response.outputs.add(name=name, datatype=datatype, shape=shape)
        if name == v2.PROBABILITY:
            if request.raw_input_contents:
                response.raw_output_contents.append(np.asarray(prediction.probabilities, "<f8").tobytes())
            else:
                output.contents.fp64_contents.extend(prediction.probabilities)
        elif request.raw_input_contents:
            response.raw_output_contents.append(b"".join(_RAW_SOURCES[source] for source in prediction.sources))
        else:
            output.contents.bytes_contents.extend(_SOURCES[source] for source in prediction.sources)
    return response


_SOURCES = [source.encode() for source in FEATURE_SOURCES]
_RAW_SOURCES = [len(source).to_bytes(_LENGTH_BYTES, "little") + source for source in _SOURCES]
