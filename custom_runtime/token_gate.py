"""The bearer token at both doors: REST and gRPC. They stand there only where a token is set.

Open without a token: liveness and readiness (a kubelet has none). The metrics port is another door, and stays open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from custom_runtime.access import Tokens
from custom_runtime.asgi import App, Receive, Scope, Send, error_answer, header, reply
from custom_runtime.errors import Unauthorized
from custom_runtime.process_metrics import count_unauthorized

_CHALLENGE = (b"www-authenticate", b"Bearer")
_CLOSE = (b"connection", b"close")  # the body of a stranger is not read
_OPEN_METHODS = frozenset(
    f"/inference.GRPCInferenceService/{method}" for method in ("ServerLive", "ServerReady", "ModelReady")
)


class TokenGate:
    """An ASGI app: hands a request with a token, or to a health route, to `app`; refuses every other."""

    def __init__(self, app: App, tokens: Tokens, *, root_path: str = "") -> None:
        self._app = app
        self._tokens = tokens
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http" and not _is_health(scope["path"].removeprefix(self._root_path)):
            try:
                self._tokens.check(header(scope, b"authorization"))
            except Unauthorized as error:
                count_unauthorized("rest")
                answer = error_answer(error)
                await reply(send, answer._replace(headers=(*answer.headers, _CHALLENGE, _CLOSE)))
                return
        await self._app(scope, receive, send)


def _is_health(path: str) -> bool:
    match path.split("/"):
        case ["", "v2", "health", "live" | "ready"]:
            return True
        case ["", "v2", "models", _, "ready"] | ["", "v2", "models", _, "versions", _, "ready"]:
            return True
    return False


class TokenInterceptor(aio.ServerInterceptor):  # type: ignore[misc]
    """The same for gRPC: the token comes as the metadata `authorization`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method's handler, or one that refuses."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method in _OPEN_METHODS:
            return handler
        sent = dict(handler_call_details.invocation_metadata).get("authorization")
        try:
            self._tokens.check(sent.encode() if isinstance(sent, str) else sent)
        except Unauthorized as error:
            count_unauthorized("grpc")
            return _refusal(handler, error)
        return handler


def _refusal(handler: Any, error: Unauthorized) -> Any:
    async def refuse(_request: Any, context: aio.ServicerContext) -> None:
        context.set_trailing_metadata((("error-code", error.code),))
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    # No deserializer: the message of a stranger is not read.
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
