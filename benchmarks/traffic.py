"""Open-loop traffic that accounts for every request: sent = answered + refused + lost.

Arrivals keep their schedule whatever the server does, several protocols side by side, from one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from benchmarks.callers import Caller, Lost, Refused, Reply


class Outcome(NamedTuple):
    """What became of one request. result: "200", "503 overloaded", "refused ..." or "lost ..."."""

    stream: str
    sent_s: float
    latency_ms: float
    result: str
    reply: Reply | None

    @property
    def is_lost(self) -> bool:
        """Whether it was sent and got no answer."""
        return self.result.startswith("lost")


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request: `body(n)` is the n-th arrival's; abandon: clients go away before the answer."""

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
    """Ask, and go away within a few milliseconds; the answer is nobody's loss."""
    try:
        async with asyncio.timeout(0.0005 * (number % 8)):
            await stream.caller.ask(stream.body(number), timeout_s=stream.timeout_s)
    except TimeoutError:
        return "gone"
    return "200"
