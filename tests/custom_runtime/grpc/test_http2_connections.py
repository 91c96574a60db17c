"""What one connection may do: slow readers, floods, rapid resets, and how it ends."""

import asyncio
import struct
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from custom_runtime.grpc import http2_engine as engine
from custom_runtime.settings import ServingSettings
from tests.support.grpc_port import Listening, Port, until
from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    RawClient,
    frame,
    message,
)

LAST = 2**31 - 1
BUDGET = ServingSettings().max_bodies_bytes


async def test_an_answer_leaves_as_fast_as_its_reader_takes_it(port: Port) -> None:
    async with await RawClient.connect(port.number, window=1_000) as client:
        stream, other = client.call("/t/Echo", b"x" * 10_000), client.call("/t/Echo", b"y")
        assert (await client.answer(other)).messages == [b"y"]  # another call does not wait for it
        assert len(client.answers[stream].body) == 1_000
        client.grant(4_000, stream)
        while len(client.answers[stream].body) < 5_000:
            assert await client.read()
        client.grant(100_000, stream)
        assert (await client.answer(stream)).messages == [b"x" * 10_000]
        await until(lambda: port.listener.server.budget.free == BUDGET, "what was held is given back")


async def test_answers_that_nobody_reads_have_a_budget(listening: Listening) -> None:
    async with listening(max_bodies_bytes=30_000) as port, await RawClient.connect(port.number, window=0) as client:
        streams = [client.call("/t/Echo", b"x" * 9_000) for _ in range(4)]
        refused = await client.answer(streams[3])
        assert refused.code == "overloaded"
        client.grant(LAST, *streams[:3])
        for stream in streams[:3]:
            assert (await client.answer(stream)).status == "0"


async def test_who_does_not_read_is_left_after_a_while(port: Port) -> None:
    async with await RawClient.connect(port.number, window=0) as client:
        client.call("/t/Echo", b"x" * 10_000)
        await until(lambda: port.listener.server.connections and port.connection._held_out, "an answer waits")
        connection, now = port.connection, time.monotonic()
        connection.sweep(now, 0.1)
        connection.sweep(now + engine.STALL_S / 2, 0.1)
        client.send(PING, 0, 0, b"12345678")
        assert await client.read()
        connection.sweep(now + engine.STALL_S + 1, 0.1)
        await client.until_closed()


async def test_a_stream_whose_answers_are_not_read_is_not_read_either(port: Port) -> None:
    async with await RawClient.connect(port.number, window=10_000) as client:
        stream = client.open("/t/Stream")
        sent = 0
        while sent < 200:
            client.send(DATA, 0, stream, message(b"x" * 10_000))
            sent += 1
        try:
            async with asyncio.timeout(0.5):
                await client.writer.drain()
        except TimeoutError:
            pass
        await until(lambda: port.connection._crowded, "the connection is not read any more")
        assert port.methods.streamed < 100
        client.grant(LAST - 10_000, stream)
        port.connection._transport.resume_reading()  # the grant is behind what is not read
        client.grant(2_000_000, 0)
        client.send(DATA, END_STREAM, stream)
        assert len((await client.answer(stream)).messages) == sent


@pytest.mark.parametrize(
    "flood",
    [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0), frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 7))],
    ids=["ping", "empty settings", "settings"],
)
async def test_a_flood_of_frames_that_want_an_answer_ends_the_connection(port: Port, flood: bytes) -> None:
    async with await RawClient.connect(port.number) as client:
        client.acknowledges = False
        assert (await client.ask("/t/Echo")).status == "0"
        client.writer.write(flood * 20_000)
        await client.until_closed()
        assert client.acknowledged < 3_000
        assert not client.goaways or client.goaways[-1][1] == ENHANCE_YOUR_CALM
    async with await RawClient.connect(port.number) as client:
        assert (await client.ask("/t/Echo")).status == "0"


async def test_pings_at_a_usual_pace_are_answered(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        for _ in range(500):
            client.send(PING, 0, 0, b"12345678")
        assert (await client.ask("/t/Echo", b"hello")).messages == [b"hello"]


async def test_rapid_resets_end_the_connection_and_leave_no_work(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        for _ in range(400):
            stream = client.call("/t/Work", b"a")
            client.send(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
        await client.until_closed()
    await until(lambda: all(work.left is not None for work in port.methods.works), "no work is left")
    assert len(port.methods.works) <= 257


@pytest.mark.parametrize(
    "block", [b"\x00\x01a\x01b" * 3_000, b"", b"\x00\x01a\x7f\xe1\x5f" + b"x" * 12_000], ids=["fields", "empty", "long"]
)
async def test_a_flood_of_continuations_ends_the_connection(port: Port, block: bytes) -> None:
    async with await RawClient.connect(port.number) as client:
        client.send(HEADERS, 0, 1, client.block("/t/Echo"))
        for _ in range(100):
            client.send(CONTINUATION, 0, 1, block)
        await client.until_closed()
        assert client.goaways[-1][1] == ENHANCE_YOUR_CALM


async def test_headers_that_unpack_without_end_end_the_connection(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        block = b"\x40\x01a\x7f\xd1\x1e" + b"x" * 4_000  # a field of 4,000 bytes is kept in the table
        client.send(HEADERS, END_HEADERS, 1, block + b"\xbe" * 10_000)  # and named 10,000 times
        await client.until_closed()
        assert client.goaways


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x02\x00", PREFACE[:20] + b"!!!!"]
)
async def test_what_is_not_http2_is_closed(port: Port, first: bytes) -> None:
    async with await RawClient.connect(port.number, greet=False) as client:
        client.writer.write(first)
        await client.until_closed()


async def test_who_says_nothing_is_left_after_a_while(port: Port) -> None:
    async with await RawClient.connect(port.number, greet=False) as client:
        await until(lambda: port.listener.server.connections, "a connection")
        connection = port.connection
        connection.sweep(time.monotonic(), 0.1)
        connection.sweep(time.monotonic() + engine.PREFACE_S + 1, 0.1)
        await client.until_closed()


async def test_an_idle_peer_is_asked_whether_it_lives(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        assert (await client.ask("/t/Echo")).status == "0"
        connection, now = port.connection, time.monotonic()
        connection.sweep(now, 0.1)
        connection.sweep(now + engine.IDLE_S + 1, 0.1)
        while not client.pings:
            assert await client.read()
        assert (await client.ask("/t/Echo")).status == "0"  # and what it answers counts
        connection.sweep(now + engine.IDLE_S + 2, 0.1)
        connection.sweep(now + 2 * engine.IDLE_S + 3, 0.1)
        client.acknowledges = False
        connection.sweep(now + 2 * engine.IDLE_S + engine.PING_ANSWER_S + 4, 0.1)
        await client.until_closed()


async def test_one_connection_too_many_is_closed(listening: Listening) -> None:
    async with listening(max_connections=1) as port, await RawClient.connect(port.number) as client:
        assert (await client.ask("/t/Echo")).status == "0"
        async with await RawClient.connect(port.number) as other:
            await other.until_closed()
        assert (await client.ask("/t/Echo")).status == "0"


# -- the end ---------------------------------------------------------------------------------------------------------


async def test_the_end_loses_no_call_that_was_on_its_way(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        client.acknowledges = False
        early = client.call("/t/Work", b"a")
        first = await port.methods.work(0)
        ending = asyncio.create_task(port.listener.wait_for_clients())
        while not client.pings:
            assert await client.read()
        assert client.goaways == [(LAST, 0)]
        late = client.call("/t/Work", b"b")  # sent before GOAWAY was read
        client.send(PING, 0x1, 0, client.pings[0])
        second = await port.methods.work(1)
        while len(client.goaways) < 2:
            assert await client.read()
        assert client.goaways[1] == (late, 0)
        too_late = client.call("/t/Work", b"c")
        assert (await client.answer(too_late)).reset == 7  # REFUSED_STREAM: every client repeats it elsewhere
        first.future.set_result(b"1")
        second.future.set_result(b"2")
        assert (await client.answer(early)).messages == [b"1"]
        assert (await client.answer(late)).messages == [b"2"]
        await client.until_closed()
        await ending


async def test_the_end_ends_streams_and_says_why(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        stream, forever = client.open("/t/Stream"), client.call("/t/Forever", b"")
        client.send(DATA, 0, stream, message(b"a"))
        while not (client.answers.get(stream) and client.answers[stream].messages):
            assert await client.read()
        ending = asyncio.create_task(port.listener.wait_for_clients())
        answer = await client.answer(stream)
        assert (answer.messages, answer.code) == ([b"a"], "not_ready")
        assert (await client.answer(forever)).messages == [b"first"]
        await client.until_closed()
        await ending


async def test_a_client_that_ignores_goaway_is_disconnected_in_the_end(listening: Listening) -> None:
    async with listening(deadline_ms=100) as port, await RawClient.connect(port.number) as client:
        client.acknowledges = False
        client.call("/t/Work", b"a")
        work = await port.methods.work(0)
        await port.listener.stop()
        await client.until_closed()
        assert work.left is not None or work.future.cancelled()


@pytest.mark.parametrize("limit", ["MOST_CALLS", "MOST_RESETS"])
async def test_a_connection_is_asked_to_leave_before_zttp_ends_it(
    port: Port, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(engine, limit, 5)
    async with await RawClient.connect(port.number) as client:
        for number in range(5):
            assert (await client.ask("/t/Echo", b"%d" % number)).messages == [b"%d" % number]
            if limit == "MOST_RESETS":
                client.send(RST_STREAM, 0, client.call("/t/Work", b"a"), CANCEL.to_bytes(4, "big"))
        await client.until_closed()
        assert [code for _, code in client.goaways] == [0, 0]


async def test_calls_are_answered_to_the_last_that_zttp_allows(port: Port) -> None:
    """zttp 0.0.35 ends a connection after 4,096 calls; a client that never reads GOAWAY gets that many."""
    async with await RawClient.connect(port.number) as client:
        client.acknowledges = False
        answered = 0
        while answered < engine.MOST_CALLS - 1:
            streams = [client.call("/t/Echo", b"x") for _ in range(min(50, engine.MOST_CALLS - 1 - answered))]
            for stream in streams:
                assert (await client.answer(stream)).status == "0"
            answered += len(streams)
        assert not client.goaways
        assert (await client.ask("/t/Echo")).status == "0"
        assert client.goaways == [(LAST, 0)]


class Transport(asyncio.Transport):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def write(self, data: object) -> None:
        assert not self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


frames = st.builds(
    frame, st.integers(0, 11), st.integers(0, 255), st.sampled_from([0, 1, 1, 3, 5, 2]), st.binary(max_size=40)
)
blocks = st.sampled_from(["/t/Echo", "/t/Work", "/t/Stream", "/t/Nothing"])


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(frames, frames, blocks, st.binary(max_size=60)), max_size=25), st.integers(1, 200))
async def test_no_bytes_break_the_engine(port: Port, parts: list[bytes | str], cut: int) -> None:
    client = RawClient(asyncio.StreamReader(), None)  # type: ignore[arg-type]
    written = PREFACE + frame(SETTINGS, 0, 0)
    stream = -1
    for part in parts:
        if isinstance(part, str):
            stream += 2
            written += frame(HEADERS, END_HEADERS, stream, client.block(part)) + frame(
                DATA, END_STREAM, stream, message(b"hello")
            )
        else:
            written += part
    connection, transport = engine.Http2Connection(port.listener.server), Transport()
    connection.connection_made(transport)
    for start in range(0, len(written), cut):
        connection.data_received(written[start : start + cut])
    await asyncio.sleep(0)
    connection.sweep(time.monotonic(), 0.1)
    connection.connection_lost(None)
    assert connection not in port.listener.server.connections
    assert port.listener.server.budget.free == BUDGET
