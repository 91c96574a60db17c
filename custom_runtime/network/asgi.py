"""Answers, as the HTTP protocol writes them and as ASGI apps send them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, NamedTuple

import orjson

from custom_runtime.errors import ServingError, Unauthorized
from custom_runtime.protocol.predict_json import render_error

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
# Same-origin answers whose type must not be guessed; a few bytes, no cost.
NOSNIFF = (b"x-content-type-options", b"nosniff")
# Caches may keep a 404 or 405 without this header; the answer to a POST needs none.
_NO_STORE = (b"cache-control", b"no-store")
_CHALLENGE = (b"www-authenticate", b"Bearer")


class Answer(NamedTuple):
    """What goes back: an HTTP status, a body, and the headers beside the usual ones."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)


def code_of(answer: Answer) -> str:
    """Return the code of an answer with an error; "": it has none."""
    if answer.status < 400:
        return ""
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return ""
    return str(content.get("code", "")) if isinstance(content, dict) else ""


def error_answer(error: ServingError) -> Answer:
    """Return the answer for an error."""
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON, _NO_STORE)
    if error.retry_after_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, Unauthorized):
        headers = (*headers, _CHALLENGE)
    return Answer(error.status, render_error(error), headers)


async def reply(send: Send, answer: Answer) -> None:
    """Send an answer from within an ASGI app."""
    headers = [*answer.headers, NOSNIFF, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
