"""The little of ASGI that the fast routes need: read a body within a limit, send an answer."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from typing import Any, NamedTuple

from custom_runtime.errors import DeadlineExceeded, ServingError, TooLarge
from custom_runtime.protocol.predict_json import render_error

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
# Same-origin answers that nobody should guess the type of; a few bytes, no cost.
_NOSNIFF = (b"x-content-type-options", b"nosniff")
# A 404 or 405 may be kept by caches unless told otherwise; the answer to a POST may not, so those need no header.
_NO_STORE = (b"cache-control", b"no-store")
_CLOSE = (b"connection", b"close")


class Answer(NamedTuple):
    """What goes back: an HTTP status, a body, and the headers beside the usual ones."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


def error_answer(error: ServingError) -> Answer:
    """Return the answer for an error."""
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON, _NO_STORE)
    if error.retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, TooLarge):
        headers = (*headers, _CLOSE)  # the rest of the body is not read
    return Answer(error.status, render_error(error), headers)


async def reply(send: Send, answer: Answer, *, close: bool = False) -> None:
    """Send an answer; close: ask the client to leave this connection, because the server is draining."""
    length = (b"content-length", b"%d" % len(answer.body))
    headers = [*answer.headers, _NOSNIFF, length]
    if close and _CLOSE not in headers:
        headers.append(_CLOSE)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int, timeout_s: float) -> bytes:
    """Read a request's body. Raises TooLarge, as early as Content-Length tells, or DeadlineExceeded."""
    _check_claimed(scope, limit_bytes)
    # uvicorn starts a request when its headers are there: mostly the body came with them, and then no timer is needed.
    first = receive()
    try:
        waiting = first.send(None)
    except StopIteration as done:
        message: Message = done.value
    else:
        try:
            async with asyncio.timeout(timeout_s):
                message = await _resumed(first, waiting)
        except TimeoutError:
            raise _late(timeout_s) from None
    if message["type"] == "http.disconnect":
        raise DeadlineExceeded("the client went away before its body had arrived")
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    return await _read_rest(body, receive, limit_bytes, timeout_s)


@types.coroutine
def _resumed(started: Coroutine[Any, Any, Message], waiting: Any) -> Generator[Any, Any, Message]:
    """Await a coroutine that has run up to its first wait."""
    try:
        while True:
            try:
                sent = yield waiting
            except BaseException as error:
                waiting = started.throw(error)
            else:
                waiting = started.send(sent)
    except StopIteration as done:
        message: Message = done.value
        return message


def _late(timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"the body did not arrive within {timeout_s * 1000:.0f} ms")


async def _read_rest(body: bytes, receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    chunks, size = [body], len(body)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DeadlineExceeded("the client went away before its body had arrived")
                chunk: bytes = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    raise TooLarge(f"the body has more than {limit_bytes} bytes; allowed: {limit_bytes}")
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise _late(timeout_s) from None


def _check_claimed(scope: Scope, limit_bytes: int) -> None:
    claimed = header(scope, b"content-length")
    if claimed is not None and int(claimed) > limit_bytes:
        raise TooLarge(f"the body has {int(claimed)} bytes; allowed: {limit_bytes}")


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a request header by its lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None
