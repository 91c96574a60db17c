"""What all connections of a REST port share: limits, the budget of body bytes, tokens, heads that were read before."""

from __future__ import annotations

import http
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from custom_runtime.errors import Overloaded, ServingError, TooLarge, Unauthorized
from custom_runtime.loaded_models import LoadedModels
from custom_runtime.metrics import count_refused, count_unauthorized
from custom_runtime.network.asgi import NOSNIFF, Answer
from custom_runtime.network.cors import CorsPolicy
from custom_runtime.network.observing import ObservedRequest, RequestObserver
from custom_runtime.network.tokens import Tokens
from custom_runtime.rest.hot_routes import HotBody, HotRoutes
from custom_runtime.rest.request_head import RequestHead, is_health
from custom_runtime.settings import ServingSettings

# Bodies of this size are never refused for want of room: the number of connections bounds what they take together.
_SMALL_BODY_BYTES = 16_384
# Heads that the parser has read: as many as there are kinds of clients, and lengths of their bodies.
_MOST_HEADS, _LONGEST_HEAD_BYTES = 256, 1_024
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
_BINARY = (b"content-type", b"application/octet-stream")
_JSON_LENGTH = b"inference-header-content-length"
_LENGTH = b"%b: %b\r\ncontent-length: " % NOSNIFF


def ok_answer(body: HotBody) -> Answer:
    """Return the answer of a hot route, for a request that wants more in its head than `HttpService.ok` writes."""
    if isinstance(body, bytes):
        return Answer(200, body)
    return Answer(200, body.content, (_BINARY, (_JSON_LENGTH, b"%d" % body.json_bytes)))


class BodyBudget:
    """Bytes that request bodies may take together; they are reserved before they are read."""

    def __init__(self, total_bytes: int) -> None:
        self.left_bytes = total_bytes
        self._total_bytes = total_bytes

    def reserve(self, size: int) -> None:
        """Reserve room for a body, or for more of one. Raises Overloaded."""
        if size > self.left_bytes and size > _SMALL_BODY_BYTES:
            raise Overloaded(
                f"request bodies take {self._total_bytes - self.left_bytes} bytes, {size} more are too many; "
                f"allowed: {self._total_bytes} together (SERVING_MAX_BODIES_BYTES); retry later"
            )
        self.left_bytes -= size

    def release(self, size: int) -> None:
        """Give room back."""
        self.left_bytes += size


@dataclass
class HttpService:
    """Shared by the connections of one port. hot: None where every request goes to the ASGI app."""

    settings: ServingSettings
    models: LoadedModels
    hot: HotRoutes | None = None
    tokens: Tokens | None = None
    cors: CorsPolicy | None = None
    observer: RequestObserver | None = None
    root_path: str = ""
    clock: Callable[[], float] = time.perf_counter
    budget: BodyBudget = field(init=False)
    known_heads: dict[bytes, RequestHead] = field(default_factory=dict, init=False)
    _default_headers: object = field(default=None, init=False)
    _default_lines: bytes = field(default=b"", init=False)
    _ok_head: bytes = field(default=b"", init=False)
    _ok_binary_head: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self.budget = BodyBudget(self.settings.max_bodies_bytes)
        self.deadline_s = self.settings.deadline_ms / 1000
        self.max_connections = self.settings.max_connections
        self.max_head_bytes = self.settings.max_header_bytes
        self.max_url_bytes = self.settings.max_request_line_bytes
        self.max_headers = self.settings.max_headers

    def limit_bytes(self, head: RequestHead) -> int:
        """Return how long the body of a request may be."""
        is_predict = head.route is not None and head.route.name is None
        return self.settings.max_predict_bytes if is_predict else self.settings.max_body_bytes

    def admit(self, head: RequestHead) -> None:
        """Decide before a body is read, and reserve what it claims. Raises Unauthorized, TooLarge or Overloaded."""
        if self.tokens is not None and not is_health(head.path) and not (self.cors and head.is_preflight):
            try:
                self.tokens.check(head.authorization)
            except Unauthorized:
                count_unauthorized("rest")
                raise
        size = head.content_length
        if size:
            limit_bytes = self.limit_bytes(head)
            if size > limit_bytes:
                raise TooLarge(f"the body has {size} bytes; allowed: {limit_bytes}")
            self.budget.reserve(size)

    def observe(
        self, observer: RequestObserver, head: RequestHead | None, client: str, age_s: float
    ) -> ObservedRequest | None:
        """Begin to observe a request; health is not observed: probes would be most of what is seen."""
        if head is None:
            return observer.begin("rest", "", "", client=client, age_s=age_s)
        if is_health(head.path):
            return None
        route = None
        if head.route is not None:
            route = "/predict" if head.route.name is None else "/v2/models/{model_name}/infer"
        return observer.begin(
            "rest",
            head.method,
            head.path,
            route=route,
            request_id=head.request_id.decode(),
            traceparent=head.traceparent.decode("latin-1"),
            client=client,
            age_s=age_s,
        )

    def remember(self, head_bytes: bytes, head: RequestHead) -> None:
        """Keep what the parser made of these bytes: between two requests they mean the same again."""
        if len(head_bytes) <= _LONGEST_HEAD_BYTES:
            if len(self.known_heads) >= _MOST_HEADS:
                self.known_heads.clear()
            self.known_heads[head_bytes] = head

    def count(self, head: RequestHead | None, status: int, error: ServingError | None, seconds: float) -> None:
        """Count an outcome: with its model where one was asked, otherwise by the error's code."""
        if head is not None and head.route is not None and not isinstance(error, Unauthorized):
            try:
                runtime = self.models.find(head.route.name, head.route.version)
            except ServingError as refusal:
                if not self.models.is_foreign(head.route.name):
                    count_refused("rest", refusal.code)
            else:
                runtime.metrics.observe_request(head.route.kind, status, seconds)
        elif error is not None and not isinstance(error, Unauthorized):
            count_refused("rest", error.code)

    def ok(self, body: HotBody, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return a 200 of a hot route, the answer that almost every request has; default_headers are uvicorn's.

        The bytes are those that `render` makes of `ok_answer(body)`.
        """
        if default_headers is not self._default_headers:  # a new list once a second, with the date
            self._renew(default_headers)
        if isinstance(body, bytes):
            return b"%b%d\r\n\r\n%b" % (self._ok_head, len(body), body)
        content, json_bytes = body
        return b"%b%d\r\n%b%d\r\n\r\n%b" % (self._ok_binary_head, json_bytes, _LENGTH, len(content), content)

    def render(
        self, answer: Answer, head: RequestHead | None, default_headers: list[tuple[bytes, bytes]], *, close: bool
    ) -> bytes:
        """Return any answer, with what the request wants to find in it."""
        if default_headers is not self._default_headers:
            self._renew(default_headers)
        lines = [_STATUS_LINES.get(answer.status) or b"HTTP/1.1 %d \r\n" % answer.status, self._default_lines]
        lines += [b"%b: %b\r\n" % pair for pair in answer.headers]
        body = answer.body
        names = {name for name, _ in answer.headers}
        if NOSNIFF[0] not in names:
            lines.append(b"%b: %b\r\n" % NOSNIFF)
        if b"content-length" not in names:
            lines.append(b"content-length: %d\r\n" % len(body))
        if close:
            lines.append(b"connection: close\r\n")
        if head is not None:
            if head.http_version == "1.0" and not close:
                lines.append(b"connection: keep-alive\r\n")
            if head.request_id:
                lines.append(b"x-request-id: %b\r\n" % head.request_id)
            if head.origin and self.cors and _ALLOW_ORIGIN not in names:
                lines += [b"%b: %b\r\n" % pair for pair in self.cors.headers_for(head.origin)]
            if head.method == "HEAD":
                body = b""
        return b"%b\r\n%b" % (b"".join(lines), body)

    def _renew(self, default_headers: list[tuple[bytes, bytes]]) -> None:
        self._default_headers = default_headers
        self._default_lines = b"".join(b"%b: %b\r\n" % pair for pair in default_headers)
        head = _STATUS_LINES[200] + self._default_lines
        self._ok_head = b"%bcontent-type: application/json\r\n%b" % (head, _LENGTH)
        self._ok_binary_head = b"%b%b: %b\r\n%b: " % (head, *_BINARY, _JSON_LENGTH)


_ALLOW_ORIGIN = b"access-control-allow-origin"
