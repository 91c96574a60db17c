"""Bearer tokens: reads them from the settings, and checks them.

Where a token is set, the HTTP protocol asks for it over REST, and TokenInterceptor over gRPC. Open without a token:
liveness and readiness (a kubelet has none), and the metrics port.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc import aio

from custom_runtime.errors import StartupError, Unauthorized
from custom_runtime.metrics import count_unauthorized
from custom_runtime.settings import ServingSettings

_SCHEME = b"bearer "
# 16 characters of base64 are 96 bits: they cannot be guessed over a network.
_SHORTEST = 16
_OPEN_METHODS = frozenset(
    f"/inference.GRPCInferenceService/{method}" for method in ("ServerLive", "ServerReady", "ModelReady")
) | {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}


class Tokens:
    """The accepted tokens; several, so that a new one can be distributed before the old one is revoked."""

    def __init__(self, tokens: Iterable[str]) -> None:
        # Digests have one length, so the time of a comparison does not reveal anything, not even a token's length.
        self._digests = [_digest(token.encode()) for token in tokens]

    def check(self, authorization: bytes | None) -> None:
        """Raise Unauthorized unless an Authorization header carries one of the tokens."""
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthorized("no bearer token was sent; allowed: the header `Authorization: Bearer <token>`")
        given = _digest(authorization[len(_SCHEME) :].strip())
        if not any([hmac.compare_digest(given, digest) for digest in self._digests]):  # noqa: C419  (never cut short)
            raise Unauthorized("the bearer token is not one of this server's tokens")


def read_tokens(settings: ServingSettings) -> Tokens | None:
    """Return the tokens of the settings, None where none is set. Raises StartupError; no message shows a token."""
    if settings.token is not None and settings.token_file is not None:
        raise StartupError("SERVING_TOKEN and SERVING_TOKEN_FILE are both set; allowed: one of them")
    if settings.token is not None:
        return Tokens(_checked([settings.token.get_secret_value()], "SERVING_TOKEN"))
    if settings.token_file is None:
        return None
    try:
        lines = settings.token_file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"SERVING_TOKEN_FILE {settings.token_file} cannot be read: {_cause(error)}") from None
    return Tokens(
        _checked([line.strip() for line in lines if line.strip()], f"SERVING_TOKEN_FILE {settings.token_file}")
    )


def _checked(tokens: list[str], place: str) -> list[str]:
    if not tokens:
        raise StartupError(f"{place} has no token; allowed: one per line")
    for number, token in enumerate(tokens, 1):
        if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
            raise StartupError(
                f"{place}: token {number} is not allowed; allowed: {_SHORTEST} or more printable ASCII characters "
                "without spaces, as `openssl rand -base64 24` makes them"
            )
    return tokens


def _cause(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not UTF-8 text"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class TokenInterceptor(aio.ServerInterceptor):  # type: ignore[misc]
    """Lets a call with a token through, and the health methods: the token comes as the metadata `authorization`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method's handler, or one that aborts with UNAUTHENTICATED."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method in _OPEN_METHODS:
            return handler
        sent = dict(handler_call_details.invocation_metadata).get("authorization")
        try:
            self._tokens.check(sent.encode() if isinstance(sent, str) else sent)
        except Unauthorized as error:
            count_unauthorized("grpc")
            return _unauthenticated(handler, error)
        return handler


def _unauthenticated(handler: Any, error: Unauthorized) -> Any:
    async def refuse(_request: Any, context: aio.ServicerContext) -> None:
        context.set_trailing_metadata((("error-code", error.code),))
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    # No deserializer: the message of an unauthorized call is not parsed.
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
