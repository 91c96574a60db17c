"""Shared by fault tests: streams of each protocol, and a proxy that disturbs its traffic."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from types import TracebackType

from benchmarks.load.target import v2_grpc_message, v2_rest_body
from benchmarks.soak.traffic import GrpcCaller, RestCaller, Stream, Traffic
from custom_runtime.active import CONTRACT
from tests.support.programs import GUARD_S, free_port
from tests.support.serving import Server

HOST = "127.0.0.1"
EVERYTHING = {feature.name: feature.example for feature in CONTRACT.features}


def customer(number: int) -> int:
    return number % 7043 + 1


def predict(server: Server, *, qps: float, name: str = "predict", fresh: bool = False) -> Stream:
    """POST /predict by customer id; fresh: on a new connection each time."""
    caller = RestCaller(HOST, server.http_port, "/predict", fresh=fresh)
    return Stream(name, caller, lambda number: b'{"customer_id": %d}' % customer(number), qps)


def given(server: Server, *, qps: float) -> Stream:
    """POST /predict with every feature in the request."""
    body = json.dumps({"customer_id": 42, **EVERYTHING}).encode()
    return Stream("given", RestCaller(HOST, server.http_port, "/predict"), lambda number: body, qps)


def v2_rest(server: Server, *, qps: float, rows: int = 1) -> Stream:
    """V2 infer over REST; rows: the size of each batch."""

    def body(number: int) -> bytes:
        return v2_rest_body("customer_id", "INT64", [customer(number + row) for row in range(rows)], rows=rows)

    return Stream("v2_rest", RestCaller(HOST, server.http_port, "/v2/models/churn/infer"), body, qps)


def v2_grpc(server: Server, *, qps: float) -> Stream:
    """V2 infer over gRPC."""

    def body(number: int) -> bytes:
        return v2_grpc_message("churn", "customer_id", "INT64", [customer(number)])

    return Stream("v2_grpc", GrpcCaller(HOST, server.grpc_port), body, qps)


async def until(condition: Callable[[], bool], *, what: str, within_s: float = GUARD_S) -> None:
    """Wait as `eventually` does, but in the loop in which the traffic goes on."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        await asyncio.sleep(0.01)


def latency_ms(traffic: Traffic, share: float, *names: str, result: str = "") -> float:
    """The latency that this share of the requests did not exceed."""
    ordered = sorted(
        one.latency_ms
        for one in traffic.outcomes
        if (not names or one.stream in names) and one.result.startswith(result)
    )
    return ordered[int(len(ordered) * share)]


class Proxy:
    """A TCP proxy on a thread of its own. to: the port new connections reach; delay_s: added to every answer; garbage:
    what is answered instead.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.garbage = b""
        self.to = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accepted, HOST, self.port), self._loop
        ).result(GUARD_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(GUARD_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection(HOST, self.to)
            writers.append(up_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._asked(reader, up_writer))
                group.create_task(self._answered(up_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in writers:
                one.close()
            self._tasks.discard(task)

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(self.garbage or data)
        writer.close()
