"""One HTTP exchange of a check, bounded in time and size."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

MAX_BYTES: Final = 1 << 20


class NoAnswer(Exception):
    """No complete answer came; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. took_ms: from the request to its last byte."""

    status: int
    body: bytes
    took_ms: float


def ask(
    method: str, url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None, body: Any = None
) -> Reply:
    """Send a request, with `body` as JSON unless it is None. Raises NoAnswer."""
    begun_s = time.monotonic()
    content = bytearray()
    try:
        with (
            httpx.Client(timeout=timeout_s, headers=headers) as client,
            client.stream(method, url, **({} if body is None else {"json": body})) as response,
        ):
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() - begun_s > timeout_s:  # httpx bounds each read, not their sum
                    raise NoAnswer(f"{url} had not finished its answer after {timeout_s:g} s")
                if len(content) > MAX_BYTES:
                    raise NoAnswer(f"{url} answered more than {MAX_BYTES >> 20} MB")
            return Reply(response.status_code, bytes(content), 1000 * (time.monotonic() - begun_s))
    except httpx.TimeoutException as error:
        raise NoAnswer(f"{url} did not answer within {timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise NoAnswer(f"{url} cannot be reached: {error or type(error).__name__}") from error
