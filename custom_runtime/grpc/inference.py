"""ModelInfer and ModelStreamInfer, for both engines: bytes -> the coalescer -> bytes, counted from begin to end.

A stream is answered in one of two messages, which share a path and no field. Triton's clients, which send tensors raw,
read a ModelStreamInferResponse (error_message, infer_response); MLServer's, which send them typed, read a
ModelInferResponse. That one has no field for an error: it comes as the parameters `error` and `error-code`, beside the
request's id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from mlserver.grpc import dataplane_pb2 as pb

from custom_runtime.errors import ClientGone, DeadlineExceeded, Internal, InvalidInput, ServingError
from custom_runtime.grpc.method import CallInfo, wait_for_end
from custom_runtime.grpc.other_runtimes import OtherRuntimes
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.metrics import count_refused
from custom_runtime.prediction.coalescer import Submission
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.query import NO_FEATURES, Prediction, Query
from custom_runtime.protocol import explanations, v2
from custom_runtime.protocol.request_ids import next_id
from custom_runtime.protocol.v2_proto import (
    UNREADABLE,
    only_key,
    read_explain,
    read_request,
    read_tensors,
    read_timeout_s,
    write_explained,
    write_response,
)
from custom_runtime.runtime import TabularRuntime
from custom_runtime.tracing import current_origin, originating

log = structlog.get_logger()

ROUTE = "v2_grpc"
# A message of this size takes about 1 ms to read: bigger ones are read and answered beside the event loop.
BIG_MESSAGE_BYTES = 65_536
# Requests of one stream that are answered at the same time; the others wait in the engine, which then reads no more.
STREAM_CONCURRENCY = 32

_ERROR_MESSAGE, _INFER_RESPONSE = b"\x0a", b"\x12"


class PendingInference:
    """One inference under way. The future ends with a Prediction, or with the bytes of an answer made elsewhere."""

    __slots__ = (
        "_explain",
        "_inference_id",
        "_is_explained",
        "_is_foreign",
        "_is_served",
        "_models",
        "_others",
        "_request",
        "_request_id",
        "_requested",
        "_runtime",
        "_started_s",
        "future",
    )
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, models: LoadedModels, others: OtherRuntimes, request_id: str = "") -> None:
        self._inference_id = ""
        self._request_id = request_id
        self._started_s = time.perf_counter()
        self._models = models
        self._others = others
        self._runtime: TabularRuntime
        self._is_served = False
        self._is_foreign = False
        self._request: Any = None
        self._requested: tuple[str, ...] = ()
        self._explain: int | None = None
        self._is_explained = False
        self.future: asyncio.Future[Any] | Submission[Query, Prediction]

    @property
    def request(self) -> Any:
        """The message that was read; None while a big one is still being read."""
        return self._request

    def start(self, request: Any, timeout_s: float | None) -> None:
        """Put a message that was read before the coalescer. Raises ServingError."""
        if not self._accept(request):
            self.future = asyncio.get_running_loop().create_task(self._others.infer(request))
            return
        key = None if self._is_explained else only_key(request)
        tensors = [] if key is not None else read_tensors(request)
        timeout_s = _shorter(timeout_s, read_timeout_s(request))
        if key is not None:
            query = Query(key, NO_FEATURES, inference_id=self._inference_id)
            self.future = self._runtime.predictor.submit(query, timeout_s=timeout_s)
        elif self._is_explained:
            self.future = asyncio.get_running_loop().create_task(self._run_explained(tensors, timeout_s))
        else:
            self.future = self._runtime.submit(tensors, inference_id=self._inference_id, timeout_s=timeout_s)

    async def run_big(self, message: bytes, timeout_s: float | None, thread: ThreadPoolExecutor) -> bytes:
        """Read, answer and write a big message, all but the prediction on a thread. Raises ServingError."""
        loop = asyncio.get_running_loop()
        request = await loop.run_in_executor(thread, read_request, message)
        if not self._accept(request):
            return await self._others.infer(request)
        tensors = await loop.run_in_executor(thread, read_tensors, request)
        timeout_s = _shorter(timeout_s, read_timeout_s(request))
        prediction = await self._runtime.infer(
            tensors, inference_id=self._inference_id, timeout_s=timeout_s, is_explained=self._is_explained
        )
        return await loop.run_in_executor(thread, self._write, prediction)

    async def _run_explained(self, tensors: list[v2.Tensor], timeout_s: float | None) -> bytes:
        runtime = self._runtime
        prediction = await runtime.infer(
            tensors, inference_id=self._inference_id, timeout_s=timeout_s, is_explained=True
        )
        # Hundreds of explained rows take milliseconds to write.
        return await asyncio.get_running_loop().run_in_executor(runtime.predictor.thread, self._write, prediction)

    def finish(self) -> bytes:
        """Return the answer of the future, which has ended, and count it. Raises ServingError."""
        try:
            result = self.future.result()
            content = result if isinstance(result, bytes) else self._write(result)
        except ServingError as error:
            self.observe(error.status, error.code)
            raise
        except Exception:
            self.observe(Internal.status, Internal.code)
            log.exception("request_failed", route=ROUTE, request_id=self._request_id)
            raise Internal from None
        self.observe(200)
        return content

    def leave(self, *, is_late: bool) -> None:
        """Stop, because the caller left. One that leaves when its deadline is over has waited for this server."""
        self.future.cancel()
        outcome = DeadlineExceeded if is_late else ClientGone
        self.observe(outcome.status, outcome.code)

    def observe(self, status: int, code: str = "") -> None:
        """Count the outcome with its time, or by its error's code where no model took the request."""
        if self._is_served:
            self._runtime.metrics.observe_request(ROUTE, status, time.perf_counter() - self._started_s)
        elif not self._is_foreign:
            count_refused("grpc", code)

    def _accept(self, request: Any) -> bool:
        """Find the model; False: another runtime's, which MLServer answers and counts. Raises ServingError."""
        if request is UNREADABLE:
            raise InvalidInput("the message is no ModelInferRequest, or has too many parts")
        self._request = request
        if self._models.is_foreign(request.model_name):
            self._is_foreign = True
            return False
        self._runtime = self._models.find(request.model_name, request.model_version or None)
        self._is_served = True
        self._inference_id = request.id or next_id()
        self._runtime.predictor.admit()
        self._explain = read_explain(request)
        outputs = request.outputs
        self._requested = v2.check_outputs([output.name for output in outputs] if outputs else (), self._explain)
        self._is_explained = self._explain is not None or explanations.is_asked(self._requested)
        return True

    def _write(self, prediction: Prediction | ExplainedPrediction) -> bytes:
        request = self._request
        raw = bool(request.raw_input_contents)
        content = write_response(
            request.model_name,
            str(self._runtime.version),
            self._inference_id,
            prediction,
            self._requested,
            raw=raw,
        )
        if isinstance(prediction, ExplainedPrediction):
            content += write_explained(prediction, self._requested, self._explain, raw=raw)
        return content


class Inference:
    """Begins inferences on the loaded models."""

    def __init__(self, models: LoadedModels, others: OtherRuntimes) -> None:
        self._models = models
        self._others = others
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grpc-messages")

    def begin(self, message: bytes, info: CallInfo) -> PendingInference:
        """Begin one inference. Raises ServingError, counted, where it ends at once."""
        if (info.request_id or info.traceparent) and current_origin() is None:  # an observer has set it
            with originating(info.request_id, info.traceparent):
                return self._begin(message, info)
        return self._begin(message, info)

    def _begin(self, message: bytes, info: CallInfo) -> PendingInference:
        pending = PendingInference(self._models, self._others, info.request_id)
        try:
            if len(message) > BIG_MESSAGE_BYTES:
                work = pending.run_big(message, info.remaining_s(), self._thread)
                pending.future = asyncio.get_running_loop().create_task(work)
            else:
                pending.start(read_request(message), info.remaining_s())
        except ServingError as error:
            pending.observe(error.status, error.code)
            raise
        except Exception:
            pending.observe(Internal.status, Internal.code)
            log.exception("request_failed", route=ROUTE, request_id=info.request_id)
            raise Internal from None
        return pending

    async def stream(self, messages: AsyncIterator[bytes], info: CallInfo) -> AsyncGenerator[bytes, None]:
        """Answer the requests of a stream concurrently and in order; a bad one is answered, and the next goes on."""
        answers: asyncio.Queue[tuple[PendingInference | None, ServingError | None, Any] | None]
        answers = asyncio.Queue(STREAM_CONCURRENCY)
        reading = asyncio.create_task(self._read(messages, info, answers))
        is_raw: bool | None = None  # the first message with tensors decides
        try:
            while (item := await answers.get()) is not None:
                pending, error, request = item
                content = b""
                if pending is not None:
                    try:
                        await wait_for_end(pending)
                    except asyncio.CancelledError:
                        pending.leave(is_late=info.is_late())
                        raise
                    try:
                        content = pending.finish()
                    except ServingError as refused:
                        error = refused
                    request = pending.request
                if is_raw is None and request is not None and request.inputs:
                    is_raw = bool(request.raw_input_contents)
                yield _stream_answer(request, content, error, is_raw=is_raw is not False)
            await reading
        finally:
            reading.cancel()
            while not answers.empty():
                item = answers.get_nowait()
                if item is not None and item[0] is not None:
                    item[0].leave(is_late=info.is_late())

    async def _read(self, messages: AsyncIterator[bytes], info: CallInfo, answers: asyncio.Queue[Any]) -> None:
        try:
            async for message in messages:
                item: tuple[PendingInference | None, ServingError | None, Any]
                try:
                    item = (self.begin(message, info), None, None)
                except ServingError as error:
                    item = (None, error, read_request(message))
                await answers.put(item)
        finally:
            await answers.put(None)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _shorter(first_s: float | None, second_s: float | None) -> float | None:
    if first_s is None or second_s is None:
        return second_s if first_s is None else first_s
    return min(first_s, second_s)


def _stream_answer(request: Any, content: bytes, error: ServingError | None, *, is_raw: bool) -> bytes:
    """Return an answer in the form that the stream's sender reads (see the module)."""
    if error is None:
        return _field(_INFER_RESPONSE, content) if is_raw else content
    words = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    response = pb.ModelInferResponse()
    if request is not None:
        response.model_name, response.id = request.model_name, request.id
    if not is_raw:
        response.parameters["error"].string_param = words
        response.parameters["error-code"].string_param = error.code
    written: bytes = response.SerializeToString()
    if is_raw:
        return _field(_ERROR_MESSAGE, words.encode(errors="replace")) + _field(_INFER_RESPONSE, written)
    return written


def _field(tag: bytes, content: bytes) -> bytes:
    length, size = bytearray(), len(content)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return tag + bytes(length) + content
