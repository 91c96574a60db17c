"""What one call may send, and what comes back, byte for byte."""

import gzip

import pytest

from tests.support.grpc_port import Listening, Port, until
from tests.support.http2 import CANCEL, DATA, END_STREAM, RST_STREAM, RawClient, message


async def test_calls_share_a_connection_and_are_answered_as_they_end(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        first, second = client.call("/t/Work", b"a"), client.call("/t/Work", b"b")
        (await port.methods.work(1)).future.set_result(b"second")
        answer = await client.answer(second)
        assert (answer.messages, answer.status) == ([b"second"], "0")
        assert not client.answers.get(first)
        (await port.methods.work(0)).future.set_result(b"first")
        assert (await client.answer(first)).messages == [b"first"]
        assert answer.headers == {":status": "200", "content-type": "application/grpc"}


async def test_a_message_may_come_in_any_pieces(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        stream = client.open("/t/Echo")
        for byte in message(b"hello"):
            client.send(DATA, 0, stream, bytes((byte,)))
        client.send(DATA, END_STREAM, stream)
        assert (await client.answer(stream)).messages == [b"hello"]


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/t/Nothing", {}, "12", "not_found"),
        ("/", {}, "12", "not_found"),
        ("/t/Echo", {"content-type": "text/html"}, "3", "bad_request"),
        ("/t/Echo", {"grpc-timeout": "soon"}, "3", "invalid_input"),
        ("/t/Echo", {"grpc-encoding": "snappy"}, "12", "unsupported_encoding"),
        ("/t/Echo", {"more": "x" * 17_000}, "8", "headers_too_large"),
        ("/t/Fail", {}, "3", "invalid_input"),
    ],
)
async def test_a_call_is_refused_with_a_status_and_a_code(
    port: Port, path: str, headers: dict[str, str], status: str, code: str
) -> None:
    async with await RawClient.connect(port.number) as client:
        answer = await client.ask(path, b"hello", headers)
        assert (answer.status, answer.code) == (status, code)
        assert answer.headers[":status"] == "200"
        assert (await client.ask("/t/Echo", b"again")).status == "0"  # the connection goes on


async def test_the_words_of_an_error_are_percent_encoded(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        answer = await client.ask("/t/Fail", "é".encode())
        assert answer.headers["grpc-message"] == "100 %25 wrong: %C3%A9"


async def test_unary_calls_have_one_whole_message(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        none = client.open("/t/Echo", end=True)
        two = client.call("/t/Echo", b"a", b"b")
        part = client.open("/t/Echo")
        client.send(DATA, END_STREAM, part, message(b"hello")[:-1])
        for stream in (none, two, part):
            assert (await client.answer(stream)).code == "invalid_input"


async def test_compressed_requests_are_read(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        stream = client.open("/t/Echo", {"grpc-encoding": "gzip"})
        client.send(DATA, END_STREAM, stream, message(gzip.compress(b"hello"), compressed=True))
        assert (await client.answer(stream)).messages == [b"hello"]


async def test_a_message_that_is_too_large_is_refused_before_it_is_there(listening: Listening) -> None:
    async with listening(max_body_bytes=1_024) as port, await RawClient.connect(port.number) as client:
        stream = client.open("/t/Work")
        client.send(DATA, 0, stream, message(b"x" * 1_025)[:10])
        assert (await client.answer(stream)).code == "too_large"
        assert [error.code for error in port.methods.refused] == ["too_large"]


async def test_unfinished_messages_of_all_calls_have_one_budget(listening: Listening) -> None:
    async with listening(max_bodies_bytes=20_000) as port, await RawClient.connect(port.number) as client:
        streams = [client.open("/t/Work") for _ in range(3)]
        for stream in streams:
            client.send(DATA, 0, stream, message(b"x" * 30_000)[:9_000])
        assert (await client.answer(streams[2])).code == "overloaded"
        client.send(RST_STREAM, 0, streams[0], CANCEL.to_bytes(4, "big"))
        again = client.call("/t/Work", b"y" * 5_000)
        (await port.methods.work(0)).future.set_result(b"fits")
        assert (await client.answer(again)).messages == [b"fits"]


async def test_a_message_that_does_not_arrive_has_the_deadline_and_no_longer(listening: Listening) -> None:
    async with listening(deadline_ms=50) as port, await RawClient.connect(port.number) as client:
        stream = client.open("/t/Work")
        client.send(DATA, 0, stream, message(b"hello")[:-1])
        answer = await client.answer(stream)
        assert (answer.status, answer.code) == ("4", "request_timeout")
        assert [error.status for error in port.methods.refused] == [408]


async def test_a_deadline_reaches_the_method(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        client.call("/t/Work", b"a", headers={"grpc-timeout": "3S"})
        client.call("/t/Work", b"a")
        await client.writer.drain()
        remaining_s = (await port.methods.work(0)).info.remaining_s()
        assert remaining_s is not None
        assert 0 < remaining_s <= 3
        assert (await port.methods.work(1)).info.remaining_s() is None


async def test_a_caller_that_leaves_ends_its_work(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        stream = client.call("/t/Work", b"a")
        kept = client.call("/t/Work", b"a")
        early, other = await port.methods.work(0), await port.methods.work(1)
        client.send(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
        late = client.call("/t/Work", b"a", headers={"grpc-timeout": "1n"})
        third = await port.methods.work(2)
        client.send(RST_STREAM, 0, late, CANCEL.to_bytes(4, "big"))
        other.future.set_result(b"kept")
        assert (await client.answer(kept)).messages == [b"kept"]
        assert (await client.ask("/t/Echo")).status == "0"
        assert (early.left, third.left, other.left) == (False, True, None)
        fourth = client.call("/t/Work", b"a")
        assert fourth
        gone = await port.methods.work(3)
    await until(lambda: gone.left is not None, "the caller is gone")
    assert gone.left is False


async def test_ids_come_back_and_what_is_no_id_does_not(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        assert (await client.ask("/t/Echo", headers={"x-request-id": "abc"})).headers["x-request-id"] == "abc"
        assert "x-request-id" not in (await client.ask("/t/Echo", headers={"x-request-id": "x" * 200})).headers
        traced = client.call("/t/Work", b"a", headers={"x-request-id": "abc", "traceparent": "00-1-2-01"})
        work = await port.methods.work(0)
        assert (work.info.request_id, work.info.traceparent) == ("abc", "00-1-2-01")
        work.future.set_result(b"")
        assert (await client.answer(traced)).headers["x-request-id"] == "abc"


async def test_tokens_are_wanted_but_for_open_methods(listening: Listening) -> None:
    token = "0123456789abcdef"
    async with listening(token=token) as port, await RawClient.connect(port.number) as client:
        assert (await client.ask("/t/Echo")).status == "16"
        assert (await client.ask("/t/Echo", headers={"authorization": "Bearer wrong-wrong-wrong"})).status == "16"
        assert (await client.ask("/t/Echo", headers={"authorization": f"Bearer {token}"})).status == "0"
        assert (await client.ask("/t/Open")).status == "0"


async def test_a_stream_is_answered_in_order_while_it_goes_on(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        stream = client.open("/t/Stream")
        client.send(DATA, 0, stream, message(b"a") + message(b"b"))
        while stream not in client.answers or len(client.answers[stream].messages) < 2:
            assert await client.read()
        client.send(DATA, END_STREAM, stream, message(b"c"))
        answer = await client.answer(stream)
        assert (answer.messages, answer.status) == ([b"a", b"b", b"c"], "0")


async def test_a_stream_with_a_broken_frame_ends_with_its_status(port: Port) -> None:
    async with await RawClient.connect(port.number) as client:
        stream = client.open("/t/Stream")
        client.send(DATA, 0, stream, message(b"a") + b"\x07\0\0\0\1x")
        answer = await client.answer(stream)
        assert answer.code == "invalid_input"
