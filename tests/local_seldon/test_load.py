from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from scipy.stats import gamma

from local_seldon.demo.load import NO_ANSWER, UNKNOWN, Answer, Load, Tally
from tests.support.programs import GUARD_S

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
    finally:
        server.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(2)


async def send(load: Load, requests: int) -> Tally:
    running = asyncio.create_task(load.run())
    async with asyncio.timeout(GUARD_S):
        while load.tally.sent < requests:  # noqa: ASYNC110 -- the counter is what is waited for
            await asyncio.sleep(0.005)
        load.stop()
        await running
    return load.tally


async def test_every_request_is_counted_by_status_and_predictor_over_kept_connections() -> None:
    connections: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        for number in range(1_000_000):
            await request(reader)
            status, name = (200, "v1") if number % 4 else (503, "v2")
            head = f"HTTP/1.1 {status} x\r\nX-Seldon-Predictor: {name}\r\nContent-Length: 2\r\n\r\n{{}}"
            writer.write(head.encode())

    async with listening(answer) as url:
        tally = await send(Load(url, lambda _: b"{}", per_s=500), 200)
    assert tally.sent == tally.answered == tally.answers.total()
    assert tally.failed == tally.failed_by("v2") == tally.answers[Answer(503, "v2")] > 20
    assert tally.failed_by("v1") == 0
    assert len(connections) < 60


async def test_a_connection_that_breaks_is_a_failure_and_is_not_tried_again() -> None:
    seen: list[int] = []

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        seen.append(1)

    async with listening(drop) as url:
        tally = await send(Load(url, lambda _: b"{}", per_s=500), 50)
    assert tally.answers == {Answer(NO_ANSWER, UNKNOWN): tally.sent}
    assert tally.failed == tally.sent == len(seen)
    assert tally.answered == 0


async def test_arrivals_do_not_wait_for_answers_and_keep_their_rate() -> None:
    released = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await released.wait()
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n")

    async with listening(hold) as url:
        load = Load(url, lambda _: b"{}", per_s=200)
        started_s = time.monotonic()
        running = asyncio.create_task(load.run())
        async with asyncio.timeout(GUARD_S):  # without an answer, one that waited for it would not end
            while load.tally.sent < 200:  # noqa: ASYNC110 -- the counter is what is waited for
                await asyncio.sleep(0.005)
        took_s = time.monotonic() - started_s
        load.stop()
        released.set()
        await running
    # The time of 200 arrivals is Gamma distributed; a busy machine may add to it, but nothing makes it shorter.
    assert gamma.cdf(took_s, 200, scale=1 / 200) > 1e-6
    assert load.tally.answered == load.tally.sent


def test_a_request_counts_for_the_phase_in_which_it_was_sent() -> None:
    load = Load("http://127.0.0.1:1", lambda _: b"{}", per_s=1)
    load.phase = "one"
    first = load.tally
    load.phase = "two"
    assert load.tallies == {"one": first}
    assert load.tally is load.tallies["two"] is not first


def test_shares_are_of_the_answers() -> None:
    tally = Tally(sent=5)
    tally.answers.update({Answer(200, "v1"): 3, Answer(503, "v2"): 1, Answer(NO_ANSWER, UNKNOWN): 1})
    assert tally.share("v1") == pytest.approx(3 / 4)
    assert Tally().share("v1") == 0.0
