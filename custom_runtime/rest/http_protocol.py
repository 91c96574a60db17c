"""One HTTP/1.1 connection, in place of uvicorn's protocol: the hot routes are answered here, all else by the ASGI app.

A hot request costs no task, no scope and no message dicts; its answer is one `transport.write`. Bytes that llhttp has
read once as the head of a hot request are not parsed again. Whatever route a request takes, this object reads its body
(bounded in bytes, reserved, within the deadline) before anybody else sees it, and writes its answer.

    IDLE -> HEAD -> BODY -> IDLE     one request after the other; while one is in flight nothing more is parsed
    ... -> DROP                      no further request is read: bytes are discarded until the connection ends
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

import httptools
import structlog
import uvicorn
from uvicorn.server import ServerState

from custom_runtime.errors import (
    BadRequest,
    ClientGone,
    HeadersTooLarge,
    Internal,
    MethodNotAllowed,
    Overloaded,
    RequestTimeout,
    ServingError,
    TooLarge,
)
from custom_runtime.metrics import count_refused
from custom_runtime.network.asgi import Answer, App, code_of, error_answer
from custom_runtime.network.observing import ObservedRequest, request_context
from custom_runtime.rest.asgi_call import address_of, answer_of, scope_of
from custom_runtime.rest.hot_routes import Pending
from custom_runtime.rest.http_service import HttpService, ok_answer
from custom_runtime.rest.request_head import RequestHead, read_head

log = structlog.get_logger()

IDLE, HEAD, BODY, DROP = range(4)
# The parser is fed so much at once where it may find heads: what one call of it can make is bounded.
_PIECE_BYTES = 2_048
# Trailers and chunk extensions: bytes of a chunked body that bring no data.
_MOST_SILENT_BYTES = 16_384
# After a refusal the client may still be sending, and reads the answer only then: so long, and so much, is discarded.
LINGER_S = 5.0
_LINGER_BYTES = 64 * 1024 * 1024
# At the end of the process: who opened or used a connection this short a time ago may have sent a request on it.
LAST_REQUEST_S = 2.0
# Load balancers keep idle connections for a minute; the side that closes first should not be ours.
KEEP_ALIVE_S = 75.0
# A client on a slow connection sends a request head in one or two packets; one that takes this long is hostile.
HEADERS_S = 10.0
# A client that does not read its answer for this long is disconnected.
UNREAD_S = 30.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PREFACE = b"PRI * HTTP/2.0\r\n"
_REASON = b"this port speaks HTTP/1.1; HTTP/2 is spoken by the gRPC port"
# An empty SETTINGS frame, then GOAWAY with the code HTTP_1_1_REQUIRED (RFC 9113).
_HTTP2_REFUSAL = (
    b"\0\0\0\4\0\0\0\0\0" + (8 + len(_REASON)).to_bytes(3, "big") + b"\7\0\0\0\0\0\0\0\0\0\0\0\0\x0d" + _REASON
)


class _Received(NamedTuple):
    """A request whose turn has not come yet: with its body, or with the reason why it has none."""

    head: RequestHead | None
    body: bytes
    reserved_bytes: int
    started_s: float
    error: ServingError | None = None


class HttpProtocol(asyncio.Protocol):
    """uvicorn makes one for each connection, and calls `shutdown` at its end."""

    __slots__ = (
        "_app",
        "_app_state",
        "_body_bytes",
        "_chunks",
        "_continue_owed",
        "_current",
        "_dropped_bytes",
        "_eof",
        "_gone",
        "_head",
        "_head_bytes",
        "_headers",
        "_held",
        "_held_bytes",
        "_is_last",
        "_is_message_over",
        "_is_next_running",
        "_is_reading_paused",
        "_is_write_paused",
        "_loop",
        "_observed",
        "_parser",
        "_pending",
        "_phase",
        "_queue",
        "_refusal_is_sent",
        "_refused",
        "_repeated_head",
        "_reserved_bytes",
        "_service",
        "_silent_bytes",
        "_since_s",
        "_started_s",
        "_state",
        "_timer",
        "_transport",
        "_unread_since_s",
        "_upgrade",
        "_url",
    )  # fmt: skip

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        service: HttpService,
    ) -> None:
        self._service = service
        self._app: App = config.loaded_app
        self._app_state = app_state
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        # What is being read.
        self._phase = IDLE
        self._new_parser()
        self._upgrade = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head: RequestHead | None = None
        self._chunks: list[bytes] = []
        self._body_bytes = self._silent_bytes = self._reserved_bytes = self._dropped_bytes = 0
        self._refused = self._refusal_is_sent = self._is_message_over = self._continue_owed = False
        self._timer: asyncio.TimerHandle | None = None
        self._repeated_head = b""
        # What waits, and what is in flight.
        self._queue: deque[_Received] = deque()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._current: _Received | None = None
        self._pending: Pending | None = None
        self._observed: ObservedRequest | None = None
        self._is_next_running = False
        # The connection.
        self._is_last = self._eof = self._is_reading_paused = self._is_write_paused = False
        self._since_s = self._started_s = self._unread_since_s = 0.0
        self._gone: asyncio.Future[None] | None = None

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # What follows a request that ends the connection is dropped here, and is no error of that request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # The connection.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, or refuse it when there are too many."""
        self._transport = transport
        self._since_s = self._service.clock()
        connections = self._state.connections
        connections.add(self)  # type: ignore[arg-type]
        most = self._service.max_connections
        if len(connections) > most:
            self._fail(Overloaded(f"{most} connections are open, no more are allowed; retry later"))
            self._next()

    def data_received(self, data: bytes) -> None:
        """Read what the client sent: a whole request of a known kind at once, anything else through the parser."""
        if self._phase == IDLE and self._current is None and not self._held and not self._is_write_paused:
            end = data.find(b"\r\n\r\n") + 4
            head = self._service.known_heads.get(data[:end])
            if head is not None and len(data) - end == head.content_length:
                self._begin(_Received(head, data[end:], 0, self._service.clock()))
                return
            self._feed(data)
            if head is None:
                self._learn(data, end)
        elif self._phase == DROP:
            self._drop(len(data))
        elif self._current is not None or self._held or self._is_write_paused:
            self._hold(data)
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        """Answer what a half-closed client has asked; over TLS a connection cannot be half closed."""
        self._eof = True
        if self._transport.get_extra_info("ssl_object") is not None:
            return False
        return self._current is not None or bool(self._queue or self._held)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a request that was not answered is an outcome of its client's."""
        self._state.connections.discard(self)
        self._stop_timer()
        current, pending = self._current, self._pending
        self._current = self._pending = None
        if self._observed is not None:
            self._observed.end(ClientGone.status, code=ClientGone.code)
            self._observed = None
        service, now_s = self._service, self._service.clock()
        if self._phase == BODY and not self._refused:
            service.count(self._head, ClientGone.status, ClientGone(), now_s - self._started_s)
        if pending is not None:
            pending.future.cancel()  # no client waits for it: its rows are not scored
        unanswered = list(self._queue) if current is None else [current, *self._queue]
        for received in unanswered:
            service.count(received.head, ClientGone.status, ClientGone(), now_s - received.started_s)
            service.budget.release(received.reserved_bytes)
        service.budget.release(self._reserved_bytes + self._held_bytes)
        self._reserved_bytes = self._held_bytes = 0
        self._queue.clear()
        self._held.clear()
        self._chunks.clear()
        self._phase = DROP
        self._parser = None  # type: ignore[assignment]
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """Hold further answers back: the client does not read."""
        self._is_write_paused = True
        self._unread_since_s = self._service.clock()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_write_paused = False
        self._next()

    def shutdown(self) -> None:
        """Close when idle; otherwise after what is being read or answered. uvicorn calls it when the server ends."""
        self._is_last = True
        if self._current is None and not self._queue and not self._held and self._phase != BODY:
            self._transport.close()

    def may_ask(self, now_s: float) -> bool:
        """Whether a request may be on its way: the connection was opened or used, or a head begun, a moment ago."""
        return self._phase in (IDLE, HEAD) and now_s - self._since_s < LAST_REQUEST_S

    def sweep(self, now_s: float) -> None:
        """Close the connection if its client is too slow; called about once a second."""
        if self._is_write_paused or self._transport.is_closing():
            if now_s - max(self._unread_since_s, self._since_s) > UNREAD_S:
                self._transport.abort()
        elif self._current is None and not self._queue:
            waited_s = now_s - self._since_s
            if (self._phase == HEAD and waited_s > HEADERS_S) or (self._phase == IDLE and waited_s > KEEP_ALIVE_S):
                self._transport.close()

    # Bytes -> requests.

    def _feed(self, data: bytes) -> None:
        position, size = 0, len(data)
        while position < size:
            if self._phase == DROP:
                self._drop(size - position)
                return
            if self._current is not None or self._is_write_paused:
                self._hold(data[position:])
                return
            head, step = self._head, _PIECE_BYTES
            if self._phase == BODY and head is not None and head.content_length is not None:
                step = max(1, head.content_length - self._body_bytes)
            piece = data if not position and step >= size else data[position : position + step]
            position += len(piece)
            self._feed_piece(piece)
            if self._queue:
                self._next()
        self._settle()

    def _feed_piece(self, piece: bytes) -> None:
        was_idle, silent_bytes = self._phase == IDLE, self._silent_bytes + len(piece)
        if was_idle and piece.startswith(_PREFACE):
            self._refuse_http2()
            return
        self._silent_bytes = silent_bytes  # on_body sets it back
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if self._phase == IDLE:
                self._head = None
            if self._phase != DROP:  # a callback that raised has said why
                self._fail(BadRequest(f"the bytes are no HTTP/1.1 request ({_reason(error)})"))
            return
        if self._phase == HEAD:
            # A head that began inside this piece is counted from the next one on.
            self._head_bytes = self._head_bytes + len(piece) if was_idle or self._head_bytes else 1
            if self._head_bytes > self._service.max_head_bytes:
                self._fail(HeadersTooLarge(f"the head has more than {self._service.max_head_bytes} bytes"))
        elif self._phase == BODY and self._silent_bytes > _MOST_SILENT_BYTES:
            self._fail(HeadersTooLarge(f"more than {_MOST_SILENT_BYTES} bytes of chunk extensions or trailers"))

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request as if it did not ask for another protocol; the parser would skip its body."""
        if not self._upgrade or self._phase == DROP:
            return
        method = self._parser.get_method()
        lines = [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != b"upgrade"]
        head = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self._url, b"".join(lines))
        self._upgrade, self._phase = False, IDLE
        self._new_parser()
        self._feed_piece(head)
        if self._queue:
            self._next()
        if rest:
            self._feed(rest)

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._phase == DROP:
            return
        self._phase = HEAD
        self._head_bytes = 0
        self._url = b""
        self._headers = []
        self._head = None
        self._since_s = self._started_s = self._service.clock()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._url += url
        if len(self._url) > self._service.max_url_bytes:
            self._fail(HeadersTooLarge(f"the request line is longer than {self._service.max_url_bytes} bytes"))
            raise HeadersTooLarge

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which nobody asks for."""
        if self._phase != HEAD:
            return
        if len(self._headers) >= self._service.max_headers:
            self._fail(HeadersTooLarge(f"the request has more than {self._service.max_headers} headers"))
            raise HeadersTooLarge
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Decide whether the body is read."""
        if self._phase == DROP:
            return
        parser, service = self._parser, self._service
        method, http_version = parser.get_method().decode("ascii"), parser.get_http_version()
        self._started_s = service.clock()
        self._phase, self._head = BODY, None
        self._body_bytes = self._silent_bytes = 0
        try:
            if http_version not in ("1.1", "1.0"):
                raise BadRequest(f"the protocol is HTTP/{http_version}; allowed: HTTP/1.1 and HTTP/1.0")
            if method == "CONNECT":
                raise MethodNotAllowed("CONNECT is for proxies; this server is not one")
            keep_alive = parser.should_keep_alive()
            self._head = head = read_head(method, self._url, http_version, self._headers, keep_alive=keep_alive)
            if head.wants_upgrade and parser.should_upgrade():
                self._upgrade, self._phase = True, HEAD
                return
            service.admit(head)
        except ServingError as error:
            self._refuse(error)
            return
        self._reserved_bytes = head.content_length or 0
        self._continue_owed = head.expects_continue and head.content_length != 0

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._silent_bytes = 0
        if self._phase != BODY:
            return
        self._body_bytes += len(body)
        if self._refused:
            self._drop(len(body))
            return
        head = self._head
        if head is not None and head.content_length is None:
            limit_bytes = self._service.limit_bytes(head)
            try:
                if self._body_bytes > limit_bytes:
                    raise TooLarge(f"the body has more than {limit_bytes} bytes; allowed: {limit_bytes}")
                self._service.budget.reserve(len(body))
            except ServingError as error:
                self._refuse(error)
                return
            self._reserved_bytes += len(body)
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        """Put a whole request into the queue."""
        if self._phase != BODY or self._upgrade:
            return
        self._stop_timer()
        head, chunks = self._head, self._chunks
        if self._refused or head is None:
            self._phase, self._is_message_over = DROP, True
            if self._refusal_is_sent:
                self._transport.close()
            return
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._queue.append(_Received(head, body, self._reserved_bytes, self._started_s))
        self._chunks = []
        self._reserved_bytes = 0
        self._phase = IDLE if head.keep_alive else DROP

    def _learn(self, data: bytes, end: int) -> None:
        """Keep the head of a hot request that came whole, once this connection has sent it twice in a row."""
        head = self._head
        if self._phase != IDLE or head is None or not head.is_repeatable or len(data) - end != head.content_length:
            return
        head_bytes = data[:end]
        if head_bytes == self._repeated_head:
            self._service.remember(head_bytes, head)
        self._repeated_head = head_bytes

    def _hold(self, data: bytes) -> None:
        """Keep what came while a request is in flight, and read no more until it is answered."""
        try:
            self._service.budget.reserve(len(data))
        except Overloaded:
            self._transport.abort()
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if not self._is_reading_paused and not self._eof:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # Refusals.

    def _refuse(self, error: ServingError) -> None:
        """Answer with an error as soon as it is this request's turn; its body is still parsed, and dropped."""
        self._service.budget.release(self._reserved_bytes)
        self._reserved_bytes = 0
        self._chunks.clear()
        self._refused = True
        self._queue.append(_Received(self._head, b"", 0, self._started_s, error))

    def _fail(self, error: ServingError) -> None:
        """Do the same where the end of the request is unknown: nothing more is parsed."""
        if not self._refused:
            self._refuse(error)
        self._phase = DROP

    def _refuse_http2(self) -> None:
        count_refused("rest", "http2")
        self._phase, self._refused, self._refusal_is_sent = DROP, True, True
        self._transport.write(_HTTP2_REFUSAL)
        self._linger()

    def _linger(self) -> None:
        """Close a little later: closing at once resets the connection, and the client never reads the answer."""
        self._refusal_is_sent = True
        self._stop_timer()
        if self._eof:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(LINGER_S, self._transport.close)

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > _LINGER_BYTES:
            self._transport.close()

    def _late(self) -> None:
        """Give up on a body."""
        self._timer = None
        if self._phase == BODY and not self._refused:
            self._fail(RequestTimeout(f"the body did not arrive within {self._service.deadline_s * 1000:.0f} ms"))
            self._next()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Requests -> answers.

    def _next(self) -> None:
        """Begin what waits, until a request is in flight or nothing is left."""
        if self._is_next_running:
            return
        self._is_next_running = True
        try:
            while self._current is None and not self._is_write_paused and not self._transport.is_closing():
                if self._queue:
                    self._begin(self._queue.popleft())
                elif self._held:
                    data = b"".join(self._held)
                    self._held.clear()
                    self._service.budget.release(self._held_bytes)
                    self._held_bytes = 0
                    self._feed(data)
                else:
                    break
        finally:
            self._is_next_running = False
        if self._current is None and not self._is_write_paused:
            self._settle()

    def _settle(self) -> None:
        """Wait for the client: nothing is in flight, and nothing waits."""
        if self._current is not None or self._queue or self._held or self._is_write_paused:
            return
        if self._transport.is_closing():
            return
        if self._eof:
            self._transport.close()
            return
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
        if self._phase == BODY and not self._refused:
            if self._continue_owed:
                self._continue_owed = False
                self._transport.write(_CONTINUE)
            if self._timer is None:
                self._timer = self._loop.call_later(self._service.deadline_s, self._late)
        elif self._phase != BODY and self._is_last:
            self._transport.close()

    def _begin(self, received: _Received) -> None:
        """Begin to answer a request."""
        self._current = received
        head, service = received.head, self._service
        if service.observer is not None:
            client = address_of(self._transport.get_extra_info("peername"))
            age_s = service.clock() - received.started_s
            self._observed = service.observe(service.observer, head, client[0] if client else "", age_s)
        if self._observed is not None:
            with self._observed.active():
                self._answer(received)
        elif head is not None and (head.request_id or head.traceparent):
            with request_context(head.request_id.decode(), traceparent=head.traceparent.decode("latin-1")):
                self._answer(received)
        else:
            self._answer(received)

    def _answer(self, received: _Received) -> None:
        head, error = received.head, received.error
        if error is not None or head is None:
            self._end(error_answer(error or Internal()), error)
            return
        hot = self._service.hot
        if hot is None or head.route is None:
            self._begin_asgi(received)
            return
        try:
            pending = hot.begin(head.route, head, received.body)
        except ServingError as refusal:
            self._end(error_answer(refusal))
        except Exception:
            log.exception("request_failed", route="hot")
            self._end(error_answer(Internal()))
        else:
            if pending is None:
                self._begin_asgi(received)
            else:
                self._pending = pending
                pending.future.add_done_callback(self._predicted)

    def _predicted(self, future: Any) -> None:
        """Answer with what the hot route's future or submission brought."""
        pending, received = self._pending, self._current
        if pending is None or received is None or pending.future is not future:
            return  # the client has disconnected
        self._pending = None
        head = received.head
        assert head is not None  # noqa: S101
        try:
            answer = pending.render(future.result())
        except ServingError as error:
            self._end(error_answer(error))
        except asyncio.CancelledError:
            self._end(error_answer(Overloaded("the server ends; retry elsewhere")))
        except Exception:
            log.exception("request_failed", route="hot")
            self._end(error_answer(Internal()))
        else:
            if answer is None:
                self._begin_asgi(received)
            elif head.is_plain and self._observed is None and not self._is_last and not self._service.models.draining:
                self._transport.write(self._service.ok(answer, self._state.default_headers))
                now_s = self._service.clock()
                pending.runtime.metrics.observe_request(head.route.kind, 200, now_s - received.started_s)  # type: ignore[union-attr]
                self._current = None
                if received.reserved_bytes:
                    self._service.budget.release(received.reserved_bytes)
                self._since_s = now_s
                if self._queue or self._held or self._eof or self._is_reading_paused:
                    self._next()
            else:
                self._end(ok_answer(answer))

    def _end(self, answer: Answer, refusal: ServingError | None = None) -> None:
        """Write the answer of the request in flight, count it, and go on; after a refusal the connection ends."""
        received, service = self._current, self._service
        if received is None:
            return  # the client has disconnected
        head = received.head
        is_draining = (self._is_last or service.models.draining) and not self._queue and not self._held
        close = refusal is not None or is_draining or (head is not None and not head.keep_alive)
        observed, self._observed = self._observed, None
        if observed is not None:
            if observed.traceparent:
                traceparent = (b"traceparent", observed.traceparent.encode())
                answer = answer._replace(headers=(*answer.headers, traceparent))
            sent_bytes = 0 if head is not None and head.method == "HEAD" else len(answer.body)
            observed.end(answer.status, code=code_of(answer), received_bytes=len(received.body), sent_bytes=sent_bytes)
        self._transport.write(service.render(answer, head, self._state.default_headers, close=close))
        now_s = service.clock()
        service.count(head, answer.status, refusal, now_s - received.started_s)
        self._current = None
        service.budget.release(received.reserved_bytes)
        self._since_s = now_s
        if refusal is not None and not self._is_message_over:
            self._linger()
        elif close:
            self._phase = DROP
            self._transport.close()
        else:
            self._next()

    # The ASGI app.

    def _begin_asgi(self, received: _Received) -> None:
        task = self._loop.create_task(self._run_asgi(received))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _run_asgi(self, received: _Received) -> None:
        """Give a whole request to the ASGI app, and write its answer in one piece."""
        head, service, transport = received.head, self._service, self._transport
        assert head is not None  # noqa: S101

        async def until_gone() -> None:
            if self._current is received:
                self._gone = self._gone or self._loop.create_future()
                await asyncio.shield(self._gone)

        scope = scope_of(head, transport, root_path=service.root_path, state=self._app_state)
        answer = await answer_of(self._app, scope, received.body, until_gone)
        if self._current is received:
            self._end(answer)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
