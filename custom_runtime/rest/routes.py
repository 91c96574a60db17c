"""The REST routes in front of MLServer's FastAPI app: the pages, and access control of the admin API.

What reaches this app has its whole body, within the limits: the HTTP protocol (http_protocol.py) has read it, and has
answered the hot routes by itself. Here come only those of them that MLServer's own route must answer.
"""

from __future__ import annotations

from custom_runtime.errors import Forbidden, Internal, ServingError
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.network.asgi import Answer, App, Message, Receive, Scope, Send, error_answer, reply
from custom_runtime.protocol.v2_json import check_parts
from custom_runtime.rest.pages import Pages
from custom_runtime.rest.request_head import find_route
from custom_runtime.settings import ServingSettings

_REPOSITORY = "/v2/repository"
_JSON = (b"content-type", b"application/json")
# A body of this size cannot have so many errors that explaining them takes more than some milliseconds.
_HARMLESS_BYTES = 2_000
# FastAPI parses JSON only where the header says so; `curl -d` says form, and means JSON.
_DROPPED = (b"content-type", b"content-encoding")


class Routes:
    """An ASGI app: answers its own routes and passes everything else to `app`."""

    def __init__(self, app: App, models: LoadedModels, settings: ServingSettings, *, root_path: str = "") -> None:
        self._app = app
        self._models = models
        self._settings = settings
        self._root_path = root_path
        self._pages = Pages(models, docs=settings.docs, root_path=root_path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"].removeprefix(self._root_path), scope["method"]
        answer = self._pages.get(path) if method == "GET" else None
        if answer is not None:
            await reply(send, answer)
        elif path.startswith(_REPOSITORY) and not self._settings.admin_api:
            await reply(
                send, error_answer(Forbidden("the model repository API is locked; SERVING_ADMIN_API=1 opens it"))
            )
        else:
            await self._replay(scope, receive, send, path)

    async def _replay(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Give a request to MLServer's app."""
        body: bytes = (await receive())["body"]
        refusal = self._refuse(scope["method"], path, body)
        if refusal is not None:
            await reply(send, refusal)
            return
        is_given = is_answered = False

        async def replay() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0] not in _DROPPED] + [_JSON]
        path = path.removesuffix("/") if path == "/predict/" else path
        try:
            await self._app({**scope, "headers": headers, "path": self._root_path + path}, replay, watch)
        except Exception:
            # Starlette raises again what our handler has logged and answered.
            if not is_answered:
                await reply(send, error_answer(Internal()))

    def _refuse(self, method: str, path: str, body: bytes) -> Answer | None:
        """Return the answer that needs no MLServer: for an unknown model, or a body that it would explain too long."""
        route = find_route(method, path)
        if route is None or self._models.is_foreign(route.name):
            return None
        try:
            runtime = self._models.find(route.name, route.version)
            runtime.predictor.admit()
            if route.name is not None and len(body) > _HARMLESS_BYTES:
                check_parts(body)
        except ServingError as error:
            return error_answer(error)
        return None
