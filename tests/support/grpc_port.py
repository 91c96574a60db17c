"""A gRPC port in this process, with methods that tests control; independent of any model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from custom_runtime.errors import InvalidInput, ServingError
from custom_runtime.grpc.http2_engine import Http2Connection
from custom_runtime.grpc.http2_listener import Http2Listener
from custom_runtime.grpc.method import CallInfo, Method
from tests.support.programs import GUARD_S


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait in the event loop of the port."""
    deadline = asyncio.get_running_loop().time() + GUARD_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what}: not within {GUARD_S:g} s"
        await asyncio.sleep(0.001)


class Work:
    """An inference that the test ends."""

    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, info: CallInfo) -> None:
        self.info = info
        self.future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.left: bool | None = None  # is_late, once the caller left

    def finish(self) -> bytes:
        return self.future.result()

    def leave(self, *, is_late: bool) -> None:
        self.left = is_late
        self.future.cancel()


class Methods:
    """/t/Echo, /t/Fail, /t/Open (without a token), /t/Work (ended by the test), /t/Stream (echo), /t/Forever."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.refused: list[ServingError] = []
        self.is_closed = False
        self.streamed = 0

    @property
    def by_path(self) -> Mapping[str, Method]:
        table = [
            Method("/t/Echo", unary=self._echo),
            Method("/t/Fail", unary=self._fail),
            Method("/t/Open", unary=self._echo, is_open=True),
            Method("/t/Work", begin=self._begin, on_refused=self.refused.append),
            Method("/t/Stream", stream=self._stream),
            Method("/t/Forever", stream=self._forever),
        ]
        return {method.path: method for method in table}

    def close_streams(self) -> None:
        self.is_closed = True

    def close(self) -> None:
        pass

    async def work(self, number: int) -> Work:
        await until(lambda: len(self.works) > number, f"call {number} begins")
        return self.works[number]

    async def _echo(self, message: bytes, info: CallInfo) -> bytes:
        return message

    async def _fail(self, message: bytes, info: CallInfo) -> bytes:
        raise InvalidInput(f"100 % wrong: {message.decode()}")

    def _begin(self, message: bytes, info: CallInfo) -> Work:
        self.works.append(Work(info))
        return self.works[-1]

    async def _stream(self, messages: AsyncIterator[bytes], info: CallInfo) -> AsyncGenerator[bytes, None]:
        async for message in messages:
            self.streamed += 1
            yield message

    async def _forever(self, messages: AsyncIterator[bytes], info: CallInfo) -> AsyncGenerator[bytes, None]:
        yield b"first"
        await until(lambda: self.is_closed, "the port closes")


class Port:
    """A port that listens."""

    def __init__(self, number: int, methods: Methods, listener: Http2Listener) -> None:
        self.number, self.methods, self.listener = number, methods, listener

    @property
    def connection(self) -> Http2Connection:
        """The one connection that is open."""
        (found,) = self.listener.server.connections
        return found


Listening = Callable[..., AbstractAsyncContextManager[Port]]
