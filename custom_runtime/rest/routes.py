"""The REST routes in front of MLServer's FastAPI app: the hot ones, the pages, the lock on the admin API.

A hot route costs the body's own work and little else: FastAPI's validation and middlewares take 100-250 us a request.
Nothing is decided twice: a V2 body that is not of the plain shape goes, untouched, to MLServer's own route, and what
that answers (an error, mostly) is the answer.
"""

from __future__ import annotations

import asyncio
import os
import time

import orjson
import structlog

from custom_runtime.errors import Forbidden, Internal, ServingError
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.network.asgi import Answer, App, Message, Receive, Scope, Send, error_answer, read_body, reply
from custom_runtime.protocol.v2_json import check_parts, json_response, read_big, read_plain
from custom_runtime.rest.pages import Pages
from custom_runtime.runtime import TabularRuntime
from custom_runtime.settings import ServingSettings

log = structlog.get_logger()

_REPOSITORY = "/v2/repository"
_JSON = (b"content-type", b"application/json")
# A body of this size takes about 1 ms to parse: bigger ones are parsed and rendered beside the event loop.
_BIG_BODY_BYTES = 100_000
# A body of this size cannot have so many errors that explaining them takes more than some milliseconds.
_HARMLESS_BYTES = 2_000
# MLServer would unpack a compressed body, however big that makes it.
_DROPPED = (b"content-type", b"content-encoding")


class FastRoutes:
    """An ASGI app: answers its own routes and hands everything else to `app`."""

    def __init__(self, app: App, models: LoadedModels, settings: ServingSettings, *, root_path: str = "") -> None:
        self._app = app
        self._models = models
        self._settings = settings
        self._root_path = root_path
        self._pages = Pages(models, docs=settings.docs)
        self._deadline_s = settings.deadline_ms / 1000
        # Unique ids without uuid4's 2 us: a random prefix for this process, then a counter.
        prefix = os.urandom(10).hex()
        self._id_prefix = f"{prefix[:8]}-{prefix[8:12]}-{prefix[12:16]}-{prefix[16:20]}-"
        self._ids = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"].removeprefix(self._root_path), scope["method"]
        if method == "POST" and path == "/predict":
            await self._observe("predict", None, None, scope, receive, send)
            return
        if method == "POST" and (served := _served_by(path)):
            await self._observe("v2_rest", *served, scope, receive, send)
            return
        if method == "GET" and (page := self._pages.get(path)):
            await reply(send, page)
            return
        if path.startswith(_REPOSITORY) and not self._settings.admin_api:
            await reply(
                send, error_answer(Forbidden("the model repository API is locked; SERVING_ADMIN_API=1 opens it"))
            )
            return
        await self._forward(scope, receive, send)

    async def _observe(
        self, route: str, name: str | None, version: str | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a prediction route, and count the answer with its time."""
        started = time.perf_counter()
        runtime = None
        try:
            runtime = self._models.find(name, version)
            runtime.predictor.admit()
            limit_bytes = self._settings.max_predict_bytes if name is None else self._settings.max_body_bytes
            body = await read_body(scope, receive, limit_bytes=limit_bytes, timeout_s=self._deadline_s)
            if name is None:
                answer = Answer(200, await runtime.answer(body)) if self._settings.fast_routes else None
            else:
                answer = await self._infer(runtime, body) if self._settings.fast_routes else None
                if answer is None and len(body) > _HARMLESS_BYTES:
                    check_parts(body)
        except ServingError as error:
            answer = error_answer(error)
        except Exception:
            log.exception("request_failed", route=route)
            answer = error_answer(Internal())
        if answer is None:
            status = await self._replay(scope, body, send)
        else:
            status = answer.status
            await reply(send, answer, close=self._models.draining)
        if runtime is not None:
            runtime.metrics.observe_request(route, status, time.perf_counter() - started)

    async def _infer(self, runtime: TabularRuntime, body: bytes) -> Answer | None:
        """Answer a V2 body of the plain shape; None: MLServer's own route must read it."""
        big = len(body) > _BIG_BODY_BYTES
        loop, thread = asyncio.get_running_loop(), runtime.predictor.thread
        request = await loop.run_in_executor(thread, read_big, body) if big else read_plain(body)
        if request is None:
            return None
        request_id, tensors = request
        prediction = await runtime.infer(tensors)
        if request_id is None:
            self._ids += 1
            request_id = f"{self._id_prefix}{self._ids & 0xFFFFFFFFFFFF:012x}"
        response = json_response(runtime.name, str(runtime.version), request_id, prediction)
        return Answer(
            200, await loop.run_in_executor(thread, orjson.dumps, response) if big else orjson.dumps(response)
        )

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to MLServer's app, its body bounded in bytes and in time, and never unpacked."""
        limit_bytes = self._settings.max_body_bytes
        try:
            body = await read_body(scope, receive, limit_bytes=limit_bytes, timeout_s=self._deadline_s)
        except ServingError as error:
            await reply(send, error_answer(error))
            return
        await self._replay(scope, body, send)

    async def _replay(self, scope: Scope, body: bytes, send: Send) -> int:
        """Give a request whose body was read to MLServer's app; return the status that it answers."""
        status = 500
        given = answered = False

        async def receive() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the client has nothing more to say
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
            await send(message)

        # FastAPI parses JSON only where the header says so; `curl -d` says form, and means JSON.
        headers = [pair for pair in scope["headers"] if pair[0] not in _DROPPED] + [_JSON]
        try:
            await self._app({**scope, "headers": headers}, receive, watch)
        except Exception:
            # Starlette raises again what our handler has logged and answered: uvicorn would log it a second time.
            if not answered:
                await reply(send, error_answer(Internal()))
        return status


def _served_by(path: str) -> tuple[str, str | None] | None:
    """Return (model, version) of a V2 infer path; None: it is another path."""
    match path.split("/"):
        case ["", "v2", "models", name, "infer"]:
            return name, None
        case ["", "v2", "models", name, "versions", version, "infer"]:
            return name, version
    return None
