"""One call of the ASGI app for a request that the protocol has read whole: its scope, its messages, its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from custom_runtime.errors import Internal
from custom_runtime.network.asgi import Answer, App, Message, Scope, error_answer
from custom_runtime.rest.request_head import RequestHead

log = structlog.get_logger()


def scope_of(head: RequestHead, transport: asyncio.Transport, *, root_path: str, state: dict[str, Any]) -> Scope:
    """Return the scope of a request that came over this transport; state: what the app's lifespan has left."""
    secure = transport.get_extra_info("sslcontext") is not None
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.http_version,
        "server": address_of(transport.get_extra_info("sockname")),
        "client": address_of(transport.get_extra_info("peername")),
        "scheme": "https" if secure else "http",
        "root_path": root_path,
        # What a GET answers without its body is what HEAD asks for; MLServer's routes know no HEAD.
        "method": "GET" if head.method == "HEAD" else head.method,
        "path": root_path + head.path,
        "raw_path": root_path.encode() + head.raw_path,
        "query_string": head.query,
        "headers": list(head.headers),
        "state": state.copy(),
    }


async def answer_of(app: App, scope: Scope, body: bytes, until_gone: Callable[[], Awaitable[None]]) -> Answer:
    """Return what the app answers to a request; until_gone: waits until the client has disconnected.

    An app that ends without an answer, or by an exception, has answered 500.
    """
    status, headers, chunks = 0, (), []
    is_given = False

    async def receive() -> Message:
        nonlocal is_given
        if not is_given:
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await until_gone()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], tuple(message.get("headers", ()))
        else:
            chunks.append(message.get("body", b""))

    try:
        await app(scope, receive, send)
    except Exception:
        # Starlette raises again what its handler has logged and answered.
        if not status:
            log.exception("request_failed", route="asgi")
    return Answer(status, b"".join(chunks), headers) if status else error_answer(Internal())


def address_of(name: Any) -> tuple[str, int] | None:
    """Return host and port of a socket's name, None where it has none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
