"""One HTTP exchange with a metric source, limited in time and size; failures are raised as EvidenceError."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from rollout.errors import EvidenceMalformed, EvidenceUnavailable

MAX_BYTES: Final = 64 * 1024 * 1024
"""A thousand pods with fifty series of the service each are 20 MB of JSON."""


def exchange(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    timeout_s: float,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Return the body of a 200 answer that is complete within `timeout_s`.

    Raises EvidenceUnavailable for what may pass (no connection, too slow, 429, 5xx, a missing permission) and
    EvidenceMalformed for what will not (any other status, an answer that is too large).
    """
    deadline = time.monotonic() + timeout_s
    try:
        with client.stream(method, url, data=form, headers=headers, timeout=timeout_s) as response:
            # httpx limits each read, not their sum: an answer that arrives byte by byte would block the promoter.
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:
                    raise EvidenceUnavailable(f"{url} had not finished its answer after {timeout_s:g} s")
                if len(body) > MAX_BYTES:
                    raise EvidenceMalformed(f"{url} answered more than {MAX_BYTES >> 20} MB; narrow the selector")
    except httpx.TimeoutException as error:
        raise EvidenceUnavailable(f"{url} did not answer within {timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EvidenceUnavailable(f"{url} cannot be read: {error or type(error).__name__}") from error
    _check(response, url, bytes(body))
    return bytes(body)


def _check(response: httpx.Response, url: str, body: bytes) -> None:
    status = response.status_code
    if status == httpx.codes.OK:
        return
    said = body[:200].decode(errors="replace").strip()
    if status in (401, 403):
        raise EvidenceUnavailable(f"{url} answered {status} ({said}); check the source's authorization")
    if status in (408, 429) or status >= 500:
        raise EvidenceUnavailable(f"{url} answered {status} ({said})", retry_after_s=_retry_after_s(response))
    raise EvidenceMalformed(f"{url} answered {status} ({said}); 200 is wanted: check the source's address")


def _retry_after_s(response: httpx.Response) -> float | None:
    """Read Retry-After, which is a number of seconds or a date (RFC 9110, 10.2.3); None if it is neither."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds())
