"""A gRPC method as an engine sees it: bytes in, bytes out. Independent of engine and message type."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from custom_runtime.errors import ServingError
from custom_runtime.prediction.coalescer import Submission

# A longer x-request-id is ignored: it goes into answers and log lines.
LONGEST_ID = 128


class CallInfo(NamedTuple):
    """What a call says beside its messages. deadline: a time of time.monotonic()."""

    deadline: float | None = None
    request_id: str = ""
    traceparent: str = ""

    def remaining_s(self) -> float | None:
        """Return the seconds until the deadline, None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def is_late(self) -> bool:
        """Return whether the deadline is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class Pending(Protocol):
    """Work that was begun without a task of its own. headers: metadata that the answer carries beside the usual."""

    headers: Sequence[tuple[bytes, bytes]]

    @property
    def future(self) -> asyncio.Future[Any] | Submission[Any, Any]:
        """What ends when the work has ended."""

    def finish(self) -> bytes:
        """Return the answer, once the future has ended. Raises ServingError."""

    def leave(self, *, is_late: bool) -> None:
        """Stop, because the caller left; is_late: its deadline is over."""


async def wait_for_end(pending: Pending) -> None:
    """Wait until the work has ended, well or not; a wait that is cancelled does not cancel it."""
    if not pending.future.done():
        ended = asyncio.Event()
        pending.future.add_done_callback(lambda _: ended.set())
        await ended.wait()


def bind_request_id(info: CallInfo) -> None:
    """Put the call's id into every log line of the current task."""
    if info.request_id:
        structlog.contextvars.bind_contextvars(request_id=info.request_id)


Unary = Callable[[bytes, CallInfo], Awaitable[bytes]]
Begin = Callable[[bytes, CallInfo], Pending]
Stream = Callable[[AsyncIterator[bytes], CallInfo], AsyncGenerator[bytes, None]]


class Method(NamedTuple):
    """One method; one of the three ways to answer is set. Each raises ServingError.

    is_open: answered without a token. on_refused: takes an error that the engine itself answered before the method saw
    a message.
    """

    path: str
    unary: Unary | None = None
    begin: Begin | None = None
    stream: Stream | None = None
    is_open: bool = False
    on_refused: Callable[[ServingError], None] | None = None


class MethodTable(Protocol):
    """The methods of a server."""

    @property
    def by_path(self) -> Mapping[str, Method]:
        """Path -> method."""

    def close_streams(self) -> None:
        """End the open streams: the port closes."""

    def close(self) -> None:
        """Free what the methods hold."""
