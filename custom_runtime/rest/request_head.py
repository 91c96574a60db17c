"""The head of an HTTP request: what the parser read -> what the protocol must know, or why it is refused.

The parser (llhttp) refuses what is malformed by itself: two lengths, a length beside chunks, a folded header, bare line
feeds. What it lets pass and a server behind a proxy must not is refused here: request smuggling lives on differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from custom_runtime.errors import BadRequest, InvalidInput, UnsupportedEncoding, quoted

Headers = Sequence[tuple[bytes, bytes]]

# A request id of another length or alphabet is ignored: it goes into answers and log lines as it came.
_LONGEST_ID = 128
# Two of one of these would be read as the first by one server and as the last by the next.
_ONLY_ONCE = frozenset(
    (b"host", b"transfer-encoding", b"content-encoding", b"authorization", b"inference-header-content-length")
)
_LOOKED_AT = _ONLY_ONCE | {
    b"content-length",
    b"expect",
    b"upgrade",
    b"x-request-id",
    b"traceparent",
    b"origin",
    b"access-control-request-method",
}


class Route(NamedTuple):
    """Where a request leads on the hot routes: kind is the label of the metrics, "predict" or "v2_rest"."""

    kind: str
    name: str | None = None
    version: str | None = None


class RequestHead(NamedTuple):
    """A request before its body. path is without escapes; content_length is None for a chunked body.

    is_plain: a good answer needs no header beside the usual ones.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    http_version: str
    keep_alive: bool
    content_length: int | None
    route: Route | None
    json_bytes: int | None = None
    request_id: bytes = b""
    traceparent: bytes = b""
    origin: bytes = b""
    authorization: bytes | None = None
    expects_continue: bool = False
    is_preflight: bool = False
    wants_upgrade: bool = False
    is_plain: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether the same bytes may stand for another request: nothing in them belongs to this one alone."""
        return bool(
            self.route
            and self.content_length
            and self.is_plain
            and not (self.traceparent or self.expects_continue or self.wants_upgrade)
        )


def read_head(method: str, url: bytes, http_version: str, headers: Headers, *, keep_alive: bool) -> RequestHead:
    """Read a request's head. Raises BadRequest, InvalidInput or UnsupportedEncoding."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _LOOKED_AT:
            if name in found and name in _ONLY_ONCE:
                raise BadRequest(f"the header {name.decode()} is given twice; allowed: once")
            found[name] = value
    if b"host" not in found and http_version != "1.0":
        raise BadRequest("the header host is missing; allowed: one, as HTTP/1.1 wants it")
    content_length = _content_length(http_version, found)
    encoding = found.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise UnsupportedEncoding(
            f"the body's content-encoding is {quoted(_text(encoding))}; allowed: none, the body as it is"
        )
    try:
        parsed = httptools.parse_url(url)
        raw_path: bytes = parsed.path or b""
        path = raw_path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        raise BadRequest(f"the request's path is {quoted(_text(url))}; allowed: a path such as /predict") from None
    if "%" in path:
        path = unquote(path)
    request_id, origin = _request_id(found.get(b"x-request-id", b"")), found.get(b"origin", b"")
    return RequestHead(
        method,
        path,
        raw_path,
        parsed.query or b"",
        headers,
        http_version,
        keep_alive,
        content_length,
        find_route(method, path),
        _json_bytes(found.get(b"inference-header-content-length")),
        request_id,
        found.get(b"traceparent", b""),
        origin,
        found.get(b"authorization"),
        found.get(b"expect", b"").lower() == b"100-continue",
        method == "OPTIONS" and b"origin" in found and b"access-control-request-method" in found,
        b"upgrade" in found,
        keep_alive and http_version == "1.1" and not request_id and not origin,
    )


def find_route(method: str, path: str) -> Route | None:
    """Return the hot route of a request; None: it goes to the ASGI app."""
    if method != "POST":
        return None
    if path in ("/predict", "/predict/"):
        return Route("predict")
    match path.split("/"):
        case ["", "v2", "models", name, "infer"]:
            return Route("v2_rest", name)
        case ["", "v2", "models", name, "versions", version, "infer"]:
            return Route("v2_rest", name, version)
    return None


def is_health(path: str) -> bool:
    """Whether a path is one of liveness or readiness, which need no token."""
    match path.split("/"):
        case ["", "v2", "health", "live" | "ready"]:
            return True
        case ["", "v2", "models", _, "ready"] | ["", "v2", "models", _, "versions", _, "ready"]:
            return True
    return False


def _content_length(http_version: str, found: dict[bytes, bytes]) -> int | None:
    transfer = found.get(b"transfer-encoding")
    if transfer is None:
        return int(found.get(b"content-length", b"0"))  # the parser lets only digits pass
    if transfer.lower() != b"chunked" or http_version == "1.0":
        raise BadRequest(
            f"transfer-encoding is {quoted(_text(transfer))} over HTTP/{http_version}; allowed: chunked over HTTP/1.1"
        )
    return None


def _json_bytes(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise InvalidInput(f"Inference-Header-Content-Length is {quoted(_text(value))}; allowed: a number of bytes")
    return int(value)


def _request_id(value: bytes) -> bytes:
    is_safe = len(value) <= _LONGEST_ID and value.isascii() and value.decode().isprintable()
    return value if is_safe else b""


def _text(value: bytes) -> str:
    return value.decode("latin-1")
