"""Open-loop traffic that accounts for every request: sent = answered + refused + lost.

`Traffic` sends several streams from one event loop; arrivals keep their schedule whatever the server does. The callers
(`RestCaller`, `GrpcCaller`) send one request and report whether it was answered, refused before anything was sent, or
lost: sent, without an answer. They do not retry, because retries, as in httpx and gRPC's policies, would hide a loss.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import grpc
from grpc import aio

from benchmarks.load.connection import RECEIVE_BYTES
from benchmarks.load.http1 import ResponseParser
from benchmarks.load.target import GRPC_PATH

CONNECT_TIMEOUT_S = 5.0
_STATUS = {
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
}


class Outcome(NamedTuple):
    """The outcome of one request. result: "200", "503 overloaded", "refused ..." or "lost ..."."""

    stream: str
    sent_s: float
    latency_ms: float
    result: str
    reply: Reply | None

    @property
    def ended_s(self) -> float:
        """When the answer or the refusal was there, by time.perf_counter."""
        return self.sent_s + self.latency_ms / 1e3

    @property
    def is_lost(self) -> bool:
        """Whether it was sent and got no answer."""
        return self.result.startswith("lost")


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request: `body(n)` is the body of arrival n; abandon: clients disconnect before the answer."""

    name: str
    caller: Caller
    body: Callable[[int], bytes]
    qps: float
    timeout_s: float = 30.0
    abandon: bool = False


class Traffic:
    """Sends all streams until the block ends, then waits for what is in flight."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams
        self._stop = asyncio.Event()
        self._arrivals: list[asyncio.Task[None]] = []
        self._inflight: set[asyncio.Task[None]] = set()
        self.sent = 0
        self.outcomes: list[Outcome] = []

    async def __aenter__(self) -> Traffic:
        self._arrivals = [asyncio.create_task(self._arrive(stream)) for stream in self._streams]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()
        for stream in self._streams:
            await stream.caller.close()

    @property
    def inflight(self) -> int:
        """Requests without an outcome yet."""
        return len(self._inflight)

    async def stop(self) -> None:
        """Send nothing more, and wait for every outcome."""
        self._stop.set()
        await asyncio.gather(*self._arrivals)
        while self._inflight:
            await asyncio.wait(self._inflight)

    def results(self, *names: str, since_s: float = 0.0) -> Counter[str]:
        """Count the results of some streams (none named: of all), of requests sent after a perf_counter time."""
        return Counter(
            one.result for one in self.outcomes if (not names or one.stream in names) and one.sent_s >= since_s
        )

    async def _arrive(self, stream: Stream) -> None:
        started_s, number = time.perf_counter(), 0
        while not self._stop.is_set():
            due = int((time.perf_counter() - started_s) * stream.qps) + 1
            while number < due:
                task = asyncio.create_task(self._ask(stream, number))
                self._inflight.add(task)
                task.add_done_callback(self._inflight.discard)
                self.sent += 1
                number += 1
            await asyncio.sleep(max(0.0, started_s + number / stream.qps - time.perf_counter()))

    async def _ask(self, stream: Stream, number: int) -> None:
        sent_s = time.perf_counter()
        reply = None
        try:
            if stream.abandon:
                result = await _abandoned(stream, number)
            else:
                reply = await stream.caller.ask(stream.body(number), timeout_s=stream.timeout_s)
                result = f"{reply.status} {reply.code}".rstrip()
        except Refused as error:
            result = f"refused {error}"
        except Lost as error:
            result = f"lost {error}"
        latency_ms = (time.perf_counter() - sent_s) * 1e3
        self.outcomes.append(Outcome(stream.name, sent_s, latency_ms, result, reply))


async def _abandoned(stream: Stream, number: int) -> str:
    """Send a request, and disconnect within a few milliseconds; a missing answer does not count as lost."""
    try:
        async with asyncio.timeout(0.0005 * (number % 8)):
            await stream.caller.ask(stream.body(number), timeout_s=stream.timeout_s)
    except TimeoutError:
        return "gone"
    return "200"


class Reply(NamedTuple):
    """An answer. status: the HTTP status, or 200 for gRPC's OK; code: the service's own error code, empty for none."""

    status: int
    code: str
    body: bytes
    headers: Mapping[str, str]


class Refused(Exception):
    """The connection was refused: nothing was sent."""


class Lost(Exception):
    """The request was sent, and no answer came."""


class Caller(Protocol):
    """Asks one query over one protocol."""

    async def ask(self, body: bytes, *, timeout_s: float) -> Reply:
        """Send a body. Raises Refused or Lost."""

    async def close(self) -> None:
        """Close the connections."""


class RestCaller:
    """HTTP/1.1 with keep-alive; a connection serves one request at a time. fresh: a new connection for each."""

    def __init__(self, host: str, port: int, path: str, *, fresh: bool = False) -> None:
        self._host, self._port, self._path, self._fresh = host, port, path, fresh
        # First in, first out: every connection is used, so every one gets `Connection: close` when the server drains.
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def ask(self, body: bytes, *, timeout_s: float) -> Reply:
        """See Caller.ask."""
        reader, writer = await self._connection()
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(head.encode() + body)
                await writer.drain()
                reply = await read_reply(reader)
        except TimeoutError:
            writer.close()
            raise Lost(f"no answer within {timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            writer.close()
            raise Lost(type(error).__name__) from error
        except asyncio.CancelledError:  # a client that disconnects
            writer.transport.abort()
            raise
        if self._fresh or reply.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return reply

    async def close(self) -> None:
        """See Caller.close."""
        while self._idle:
            self._idle.popleft()[1].close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.popleft()
            if not reader.at_eof() and reader.exception() is None and not writer.is_closing():
                return reader, writer
            writer.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await asyncio.open_connection(self._host, self._port)
        except OSError as error:  # TimeoutError is one
            raise Refused(type(error).__name__) from error


class GrpcCaller:
    """ModelInfer over one HTTP/2 connection, without generated code."""

    def __init__(self, host: str, port: int) -> None:
        # Its own connection. No retry policy, which would hide a loss: gRPC itself repeats only what was never sent.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = aio.insecure_channel(f"{host}:{port}", options=options)
        self._call: Any = self._channel.unary_unary(GRPC_PATH)

    async def ask(self, body: bytes, *, timeout_s: float) -> Reply:
        """See Caller.ask."""
        try:
            return Reply(200, "", await self._call(body, timeout=timeout_s), {})
        except aio.AioRpcError as error:
            code = dict(error.trailing_metadata() or ()).get("error-code", "")
            if code:
                return Reply(_STATUS.get(error.code(), 500), str(code), b"", {})
            if "failed to connect" in (error.details() or "").lower():
                raise Refused(error.details()) from None
            raise Lost(f"{error.code().name}: {error.details()}") from None

    async def close(self) -> None:
        """See Caller.close."""
        await self._channel.close()


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one HTTP/1.1 response. Raises EOFError when it is incomplete, ValueError when it is not HTTP/1.1."""
    parser = ResponseParser()
    while not parser.complete:
        data = await reader.read(RECEIVE_BYTES)
        if not data:
            raise EOFError("the connection closed before the whole answer arrived")
        parser.feed(data)
    code = "" if parser.status < 400 else _code_of(parser.body)
    return Reply(parser.status, code, parser.body, parser.headers)


def _code_of(body: bytes) -> str:
    # {"error": "...", "code": "store_unavailable"}
    _, found, rest = body.rpartition(b'"code":"')
    return rest.partition(b'"')[0].decode() if found else "unknown"
