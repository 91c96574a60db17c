"""One gRPC call of our own HTTP/2 engine: head, messages, answer. It knows the connection, not HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, Protocol

import structlog

from custom_runtime.errors import (
    BadRequest,
    ClientGone,
    DeadlineExceeded,
    HeadersTooLarge,
    Internal,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    RequestTimeout,
    ServingError,
    Unauthorized,
    quoted,
)
from custom_runtime.grpc.framing import CONTENT_TYPE, Headers, MessageReader, check_encoding, parse_timeout
from custom_runtime.grpc.method import LONGEST_ID, CallInfo, Method, Pending, Stream, Unary, bind_request_id
from custom_runtime.metrics import count_unauthorized
from custom_runtime.network.tokens import Tokens
from custom_runtime.prediction.coalescer import Submission

log = structlog.get_logger()

GRPC = b"application/grpc"
RESPONSE_HEADERS: Headers = [CONTENT_TYPE]
_REQUEST_ID = b"x-request-id"
_READ = frozenset((b"content-type", b"grpc-timeout", b"grpc-encoding", b"authorization", _REQUEST_ID, b"traceparent"))
# Messages of a stream that wait for their turn; with more, nothing more is read from the connection.
STREAM_HIGH, STREAM_LOW = 64, 16


class Head(NamedTuple):
    """What the headers of a call say."""

    method: Method
    info: CallInfo
    encoding: bytes


class Connection(Protocol):
    """What a call needs of its connection."""

    limit_bytes: int
    deadline_s: float

    def reserve(self, size: int) -> bool:
        """Take bytes of the budget for messages that are not answered yet."""

    def release(self, size: int) -> None:
        """Give them back."""

    def answer(self, call: Call, message: bytes) -> None:
        """Send the one answer of a call, and end it."""

    async def send(self, call: Call, message: bytes) -> None:
        """Send one answer of several, as fast as the peer reads."""

    def end(self, call: Call, error: ServingError | None) -> None:
        """End a call with its trailers."""

    def crowd(self, call: Call, *, crowded: bool) -> None:
        """Say that a call has more messages than it can take, or has room again."""


def read_head(
    path: bytes, headers: Headers, methods: dict[bytes, Method], tokens: Tokens | None, *, most_bytes: int
) -> Head:
    """Return what a call asks for. Raises ServingError: unknown method, no token, headers that are not gRPC's."""
    sent = {name: value for name, value in headers if name in _READ}
    size = sum([len(name) + len(value) for name, value in headers])
    if size > most_bytes:
        raise HeadersTooLarge(f"the metadata has {size} bytes; allowed: {most_bytes}")
    method = methods.get(path)
    if method is None:
        raise NotFound(f"method {quoted(path.decode(errors='replace'))} is not served here")
    if not sent.get(b"content-type", b"").startswith(GRPC):
        raise BadRequest(f"content-type is {quoted(sent.get(b'content-type', b''))}; allowed: application/grpc")
    if tokens is not None and not method.is_open:
        try:
            tokens.check(sent.get(b"authorization"))
        except Unauthorized:
            count_unauthorized("grpc")
            raise
    encoding = sent.get(b"grpc-encoding", b"identity")
    check_encoding(encoding)
    timeout = sent.get(b"grpc-timeout")
    deadline = time.monotonic() + parse_timeout(timeout) if timeout else None
    request_id = sent.get(_REQUEST_ID, b"")
    if len(request_id) > LONGEST_ID or not request_id.isascii():
        request_id = b""
    traceparent = sent.get(b"traceparent", b"").decode(errors="replace")
    return Head(method, CallInfo(deadline, request_id.decode(), traceparent), encoding)


class Call:
    """One stream of HTTP/2. Ends once: answered, refused, cancelled, or lost with its connection."""

    __slots__ = (
        "_connection",
        "_held_bytes",
        "_inbox",
        "_is_crowded",
        "_message",
        "_pending",
        "_reader",
        "_task",
        "_wake",
        "expires",
        "has_begun",
        "head",
        "headers",
        "id",
        "is_complete",
        "is_drained",
        "is_over",
        "is_started",
    )  # fmt: skip

    def __init__(self, stream_id: int, head: Head, connection: Connection) -> None:
        self.id = stream_id
        self.head = head
        self.is_over = False
        self.is_started = False  # whether response headers have been sent
        self.is_complete = False  # whether the caller has sent everything
        self.has_begun = False  # whether the method is at work
        self.is_drained = False  # whether the server ended the stream of requests
        self.headers = RESPONSE_HEADERS
        if head.info.request_id:
            self.headers = [*RESPONSE_HEADERS, (_REQUEST_ID, head.info.request_id.encode())]
        # A unary request must have arrived by then; the work has its own deadline.
        self.expires = time.monotonic() + connection.deadline_s
        if head.info.deadline is not None:
            self.expires = min(self.expires, head.info.deadline)
        self._connection = connection
        self._reader = MessageReader(limit_bytes=connection.limit_bytes, encoding=head.encoding)
        self._held_bytes = 0
        self._message: bytes | None = None
        self._pending: Pending | None = None
        self._task: asyncio.Task[None] | None = None
        self._inbox: deque[bytes] = deque()
        self._is_crowded = False
        if head.method.stream is not None:
            self.has_begun = True
            self._wake = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run_stream(head.method.stream))

    # -- what the caller sends ---------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes of the request. Raises ServingError."""
        messages = self._reader.feed(data)
        if self.head.method.stream is not None:
            self._inbox.extend(messages)
            self._wake.set()
            if len(self._inbox) > STREAM_HIGH and not self._is_crowded:
                self._is_crowded = True
                self._connection.crowd(self, crowded=True)
        elif messages:
            if self._message is not None or len(messages) > 1:
                raise InvalidInput("a unary call has more than one message; allowed: one")
            self._message = messages[0]
        self._hold(self._reader.held_bytes)

    def complete(self) -> None:
        """Begin the work of a unary method: the caller has sent everything. Raises ServingError."""
        self.is_complete = True
        method = self.head.method
        if method.stream is not None:
            self._wake.set()
            return
        message = self._message
        if message is None:
            raise InvalidInput("the call has no message, or one that ends too early; allowed: one")
        self.has_begun = True
        if method.begin is not None:
            self._pending = pending = method.begin(message, self.head.info)
            if pending.headers:
                self.headers = [*self.headers, *pending.headers]
            self._pending.future.add_done_callback(self._answered)
        elif method.unary is not None:
            self._task = asyncio.get_running_loop().create_task(self._run_unary(method.unary, message))
        self._message = None

    def _hold(self, size: int) -> None:
        """Keep the budget up to date with what has arrived of an unfinished message. Raises Overloaded."""
        more = size - self._held_bytes
        if more > 0 and not self._connection.reserve(more):
            raise Overloaded("too many bytes of unfinished messages are held; retry later")
        if more < 0:
            self._connection.release(-more)
        self._held_bytes = size

    # -- how it ends -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop what is at work, and give back what is held, whatever the end."""
        self.is_over = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._held_bytes:
            self._connection.release(self._held_bytes)
            self._held_bytes = 0
        if self._is_crowded:
            self._is_crowded = False
            self._connection.crowd(self, crowded=False)

    def cancel(self) -> None:
        """Stop the work because the caller left, and count why."""
        if self._pending is not None and not self.is_over:
            self._pending.leave(is_late=self.head.info.is_late())
        self.refused(ClientGone())
        self.close()

    def refused(self, error: ServingError) -> None:
        """Report an end that came before the method saw a message."""
        on_refused = self.head.method.on_refused
        if on_refused is not None and not self.has_begun and not self.is_over:
            on_refused(error)

    def expire(self) -> None:
        """Raise RequestTimeout: the request did not arrive in time."""
        raise RequestTimeout("the request's message did not arrive in time")

    def close_inbox(self) -> None:
        """Take no more messages because the server drains: what has arrived is answered, then the stream ends."""
        if self.head.method.stream is not None and not self.is_complete:
            self.is_complete = self.is_drained = True
            self._wake.set()

    def _answered(self, future: asyncio.Future[Any] | Submission[Any, Any]) -> None:
        if self.is_over or self._pending is None:
            return
        if future.cancelled():
            self._connection.end(self, ClientGone("the work was cancelled"))
            return
        try:
            message = self._pending.finish()
        except ServingError as error:
            self._connection.end(self, error)
            return
        self._connection.answer(self, message)

    async def _run_unary(self, unary: Unary, message: bytes) -> None:
        bind_request_id(self.head.info)
        try:
            async with asyncio.timeout(self.head.info.remaining_s()):
                answer = await unary(message, self.head.info)
        except ServingError as error:
            self._connection.end(self, error)
        except TimeoutError:
            self._connection.end(self, DeadlineExceeded("the call's own deadline is over"))
        else:
            self._connection.answer(self, answer)

    async def _run_stream(self, method: Stream) -> None:
        error: ServingError | None = None
        bind_request_id(self.head.info)
        try:
            async with asyncio.timeout(self.head.info.remaining_s()):
                async with contextlib.aclosing(method(self._messages(), self.head.info)) as answers:
                    async for message in answers:
                        await self._connection.send(self, message)
        except ServingError as refused:
            error = refused
        except TimeoutError:
            error = DeadlineExceeded("the call's own deadline is over")
        except Exception:
            log.exception("request_failed", path=self.head.method.path)
            error = Internal()
        if error is None and self.is_drained:
            error = NotReady("the server is draining; open the stream elsewhere")
        self._connection.end(self, error)

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if self._is_crowded and len(self._inbox) < STREAM_LOW:
                    self._is_crowded = False
                    self._connection.crowd(self, crowded=False)
                yield message
            if self.is_complete:
                return
            self._wake.clear()
            await self._wake.wait()
