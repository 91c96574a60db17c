"""gRPC methods that answer a message which cannot be read as the caller's mistake; gRPC itself answers UNKNOWN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from custom_runtime.errors import Internal, InvalidInput, ServingError

REPOSITORY_METHODS = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
PLAIN_METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", *REPOSITORY_METHODS)


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
