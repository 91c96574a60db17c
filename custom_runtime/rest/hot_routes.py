"""The hot routes, POST /predict and V2 infer, without a transport: a request's body -> a future, and what it becomes.

Nothing is decided twice: a V2 body that is not of a known shape goes, untouched, to MLServer's own route, and what that
answers (an error, mostly) is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from custom_runtime.loaded_models import LoadedModels
from custom_runtime.prediction.coalescer import Submission
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.query import Prediction, Query
from custom_runtime.protocol import explanations, predict_json, v2, v2_json
from custom_runtime.protocol.v2_json import InferRequest
from custom_runtime.rest.request_head import RequestHead, Route

if TYPE_CHECKING:  # importing it takes MLServer, whose protobuf types no other client may share a process with
    from custom_runtime.runtime import TabularRuntime


# A body of this size takes about 1 ms to parse: bigger ones are parsed and rendered beside the event loop.
_BIG_BODY_BYTES = 100_000


class BinaryBody(NamedTuple):
    """The body of a good answer with raw tensors: json_bytes of JSON, and the tensors behind it."""

    content: bytes
    json_bytes: int


HotBody = bytes | BinaryBody


class Pending(NamedTuple):
    """A request under way. render: what the future ends with -> the body of a 200, JSON where it is bytes.

    render returns None where MLServer's own route must answer.
    """

    future: asyncio.Future[Any] | Submission[Query, Prediction]
    render: Callable[[Any], HotBody | None]
    runtime: TabularRuntime


class HotRoutes:
    """Begins the answer to a request whose body is there."""

    def __init__(self, models: LoadedModels) -> None:
        self._models = models

    def begin(self, route: Route, head: RequestHead, body: bytes) -> Pending | None:
        """Begin to answer; None: MLServer's own route must. Raises ServingError."""
        if route.name is None:
            runtime = self._models.find()
            row = predict_json.parse(body)
            count = explanations.count_of_query(head.query) if head.query else None
            if count is not None:
                explaining = asyncio.get_running_loop().create_task(runtime.predictor.explain(row))
                return Pending(explaining, partial(runtime.body.render_explained, row, count), runtime)
            return Pending(runtime.predictor.submit(row), partial(runtime.body.render, row), runtime)
        if self._models.is_foreign(route.name):
            return None
        runtime = self._models.find(route.name, route.version)
        runtime.predictor.admit()
        if len(body) > _BIG_BODY_BYTES:
            answering = self._answer_big(runtime, body, head.json_bytes)
            return Pending(asyncio.get_running_loop().create_task(answering), _as_it_is, runtime)
        request = v2_json.read_request(body, head.json_bytes)
        if request is None:
            return None
        query = request.query
        if query is None:
            rows = v2.rows_of(request.tensors)
            runtime.predictor.check_rows(rows)
            if rows <= runtime.predictor.offload_rows:
                runtime.predictor.check_wait(needs_store=v2.needs_store(request.tensors))
                query = v2.decode(request.tensors, request.id)
        if query is None or request.is_explained:
            answering = self._answer_beside(runtime, request, query)
            return Pending(asyncio.get_running_loop().create_task(answering), _as_it_is, runtime)
        future = runtime.predictor.submit(query, timeout_s=request.timeout_s)
        return Pending(future, partial(self._render, runtime, request), runtime)

    async def _answer_beside(self, runtime: TabularRuntime, request: InferRequest, query: Query | None) -> HotBody:
        """Answer many rows, which are not decoded yet, or an explained query."""
        predictor = runtime.predictor
        loop = asyncio.get_running_loop()
        if query is None:
            query = await loop.run_in_executor(predictor.thread, v2.decode, request.tensors, request.id)
        answer = predictor.explain if request.is_explained else predictor.predict
        prediction = await answer(query, timeout_s=request.timeout_s)
        if not request.is_explained:
            return self._render(runtime, request, prediction)
        # Hundreds of explained rows take milliseconds to write.
        return await loop.run_in_executor(predictor.thread, self._render, runtime, request, prediction)

    async def _answer_big(self, runtime: TabularRuntime, body: bytes, json_bytes: int | None) -> HotBody | None:
        """Answer a body that takes long to parse, and grows by parsing: one of them at a time, on the worker thread.

        Parsed lists never wait for their turn in memory; what waits is the body, or the arrays made of it.
        """
        loop, predictor = asyncio.get_running_loop(), runtime.predictor
        read = await loop.run_in_executor(predictor.thread, _read_and_decode, runtime, body, json_bytes)
        if read is None:
            return None
        request, query = read
        answer = predictor.explain if request.is_explained else predictor.predict
        prediction = await answer(query, timeout_s=request.timeout_s)
        return await loop.run_in_executor(predictor.thread, self._render, runtime, request, prediction)

    def _render(
        self, runtime: TabularRuntime, request: InferRequest, prediction: Prediction | ExplainedPrediction
    ) -> HotBody:
        body, json_bytes = v2_json.render(runtime.name, runtime.bundle.version, request, prediction)
        if json_bytes is None:
            return body
        return BinaryBody(body, json_bytes)


def _read_and_decode(runtime: TabularRuntime, body: bytes, json_bytes: int | None) -> tuple[InferRequest, Query] | None:
    request = v2_json.read_big(body, json_bytes)
    if request is None:
        return None
    query = request.query
    if query is None:
        runtime.predictor.check_rows(v2.rows_of(request.tensors))
        query = v2.decode(request.tensors, request.id)
    return request._replace(tensors=()), query


def _as_it_is(answer: HotBody | None) -> HotBody | None:
    return answer
