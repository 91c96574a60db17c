"""The HTTP protocol on a real socket, with stand-ins for the model and for the ASGI app."""

import asyncio
import gzip
import itertools
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr
from uvicorn.server import ServerState

from custom_runtime.errors import InvalidInput, NotReady, UnknownModel
from custom_runtime.network.cors import CorsPolicy
from custom_runtime.network.tokens import Tokens
from custom_runtime.rest import http_protocol
from custom_runtime.rest.hot_routes import BinaryBody, HotBody, Pending
from custom_runtime.rest.http_protocol import HttpProtocol
from custom_runtime.rest.http_service import HttpService, ok_answer
from custom_runtime.settings import ServingSettings
from tests.support.http_replies import Reply, read_reply
from tests.support.programs import GUARD_S

TOKEN = "a-token-of-the-test"
BODY = b'{"customer_id": 42}'
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


def request(body: bytes = BODY, path: str = "/predict", *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Models:
    """Stands for LoadedModels; remembers what was observed."""

    def __init__(self) -> None:
        self.draining = False
        self.observed: list[tuple[str, int]] = []
        self.runtime = SimpleNamespace(metrics=self)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.observed.append((route, status))

    def find(self, name: str | None = None, version: str | None = None) -> Any:
        if name not in (None, "churn"):
            raise UnknownModel(f"model {name!r} is not served here")
        return self.runtime

    def is_foreign(self, name: str | None) -> bool:
        return name == "other"


class Hot:
    """Stands for HotRoutes: echoes the body, or does what the body says."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self.asked: list[bytes] = []
        self.waiting: list[asyncio.Future[bytes]] = []

    def begin(self, route: Any, head: Any, body: bytes) -> Pending | None:
        self.asked.append(body)
        if body == b"refuse":
            raise InvalidInput("refused")
        if body == b"loading":
            raise NotReady("loading")
        if body == b"break":
            raise RuntimeError("a secret")
        if body == b"replay" or self._models.is_foreign(route.name):
            return None
        self._models.find(route.name)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if body.startswith(b"wait"):
            self.waiting.append(future)
        else:
            future.set_result(body)
        render: Callable[[bytes], HotBody] = lambda result: BinaryBody(result, 2) if body == b"raw" else result  # noqa: E731
        return Pending(future, render, self._models.runtime)  # type: ignore[arg-type]


class World:
    """A listening socket with everything behind it."""

    def __init__(self, **settings: Any) -> None:
        self.models = Models()
        self.hot = Hot(self.models)
        self.scopes: list[dict[str, Any]] = []
        self.now_s = 0.0
        self.service = HttpService(
            settings=ServingSettings(**({"deadline_ms": 60_000} | settings)),
            models=self.models,  # type: ignore[arg-type]
            hot=self.hot,  # type: ignore[arg-type]
        )
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.port = 0

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        body = (await receive())["body"]
        if scope["path"] == "/break":
            raise RuntimeError("a secret")
        content = json.dumps([scope["method"], scope["path"], len(body)]).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def connection(self) -> HttpProtocol:
        (connection,) = self.state.connections
        return connection  # type: ignore[return-value]


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    made = World(**settings)
    config = uvicorn.Config(made.app, interface="asgi3", log_config=None, lifespan="off", ws="none")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: HttpProtocol(config, made.state, {}, service=made.service), "127.0.0.1", 0
    )
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for connection in list(made.state.connections):
            connection._transport.abort()  # type: ignore[union-attr]
        await until(lambda: not made.state.connections)
        await server.wait_closed()
        # Whatever happened, nothing is left reserved.
        assert made.service.budget.left_bytes == made.service.settings.max_bodies_bytes


async def connect(made: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", made.port)


async def ask(made: World, *data: bytes, count: int = 1) -> list[Reply]:
    """Send bytes, in pieces that arrive one after the other, and read so many answers."""
    reader, writer = await connect(made)
    for piece in data:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.001)
    replies = [await asyncio.wait_for(read_reply(reader), GUARD_S) for _ in range(count)]
    writer.close()
    return replies


def reset(writer: asyncio.StreamWriter) -> None:
    """Leave without a word; a client that only closes looks like one that waits for its answer."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)


# The hot routes.


async def test_a_hot_request_is_answered_however_its_bytes_arrive() -> None:
    async with world() as made:
        whole = request()
        for cuts in ([], [1], [10, 30], [len(whole) - 1], [len(whole) - len(BODY)], range(1, len(whole))):
            edges = [0, *cuts, len(whole)]
            (reply,) = await ask(made, *(whole[a:b] for a, b in itertools.pairwise(edges)))
            assert (reply.status, reply.body) == (200, BODY)
            assert list(reply.headers) == ["date", "content-type", "x-content-type-options", "content-length"]
        await until(lambda: len(made.models.observed) == 6)
        assert set(made.models.observed) == {("predict", 200)}
        assert not made.scopes


async def test_a_head_that_was_sent_twice_is_known_and_its_body_may_differ() -> None:
    async with world() as made:
        bodies = [b'{"customer_id": %d}' % number for number in range(10, 20)]
        reader, writer = await connect(made)
        for body in bodies:
            writer.write(request(body))
            assert (await read_reply(reader)).body == body
        assert len(made.service.known_heads) == 1
        writer.write(request(b"refuse"))  # another length: another head
        assert (await read_reply(reader)).status == 422
        writer.write(request(bodies[0])[:-1])  # known, and not whole
        await asyncio.sleep(0.01)
        writer.write(bodies[0][-1:])
        assert (await read_reply(reader)).body == bodies[0]
        writer.close()


@pytest.mark.parametrize(
    "header", ["X-Request-Id: one", "traceparent: 00-1-2-01", "Connection: close", "Expect: 100-continue"]
)
async def test_a_head_that_belongs_to_one_request_is_never_taken_for_another(header: str) -> None:
    async with world() as made:
        for _ in range(3):
            assert (await ask(made, request(BODY, "/predict", header)))[0].status in (100, 200)
        assert not made.service.known_heads


async def test_known_heads_are_bounded_in_number_and_in_length() -> None:
    async with world() as made:
        reader, writer = await connect(made)
        for number in range(300):
            for _ in range(2):
                writer.write(request(BODY, "/predict", f"x-one: {number}"))
                await read_reply(reader)
        assert 0 < len(made.service.known_heads) <= 256
        made.service.known_heads.clear()
        for _ in range(3):
            writer.write(request(BODY, "/predict", "x-long: " + "x" * 1_100))
            await read_reply(reader)
        assert not made.service.known_heads
        writer.close()


async def test_errors_of_a_hot_route_have_the_body_of_the_table_and_are_counted() -> None:
    async with world() as made:
        for body, status in ((b"refuse", 422), (b"loading", 503), (b"break", 500)):
            (reply,) = await ask(made, request(body))
            assert reply.status == status
            assert b"secret" not in reply.body
        assert (await ask(made, request(BODY, "/v2/models/nobody/infer")))[0].code == "unknown_model"
        assert made.models.observed == [("predict", 422), ("predict", 503), ("predict", 500)]


async def test_what_the_hot_routes_leave_is_answered_by_the_app_with_the_whole_body() -> None:
    async with world() as made:
        for data in (request(b"replay"), request(BODY, "/v2/models/other/infer"), request(BODY, "/nope")):
            assert (await ask(made, data))[0].status == 200
        assert [scope["path"] for scope in made.scopes] == ["/predict", "/v2/models/other/infer", "/nope"]
        assert made.models.observed == [("predict", 200)]
        (reply,) = await ask(made, request(b"", "/break", method="GET"))
        assert (reply.status, reply.code) == (500, "internal")


async def test_a_query_an_escape_an_absolute_form_and_a_slash_at_the_end_reach_the_same_route() -> None:
    async with world() as made:
        for path in ("/predict?a=1", "/pr%65dict", "http://here/predict", "/predict/"):
            assert (await ask(made, request(BODY, path)))[0].body == BODY
        assert not made.scopes


async def test_an_answer_with_raw_tensors_says_so_and_how_much_of_it_is_json() -> None:
    async with world() as made:
        reply = (await ask(made, request(b"raw")))[0]
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["inference-header-content-length"] == "2"
        assert reply.body == b"raw"


@pytest.mark.parametrize("body", [b"{}", BinaryBody(b"{}\0", 2)])
async def test_the_usual_answer_has_the_bytes_of_one_that_is_put_together(body: HotBody) -> None:
    service, headers = World().service, [(b"date", b"today")]
    assert service.ok(body, headers) == service.render(ok_answer(body), None, headers, close=False)


# Many requests on one connection.


@pytest.mark.parametrize("path", ["/predict", "/nope"])
async def test_pipelined_requests_are_answered_in_order(path: str) -> None:
    async with world() as made:
        bodies = [b"%d" % number for number in range(500)]
        replies = await ask(made, b"".join(request(body, path) for body in bodies), count=500)
        assert {reply.status for reply in replies} == {200}
        if path == "/predict":
            assert [reply.body for reply in replies] == bodies


async def test_nothing_is_begun_while_a_request_is_in_flight() -> None:
    async with world() as made:
        reader, writer = await connect(made)
        writer.write(request(b"wait 1") + request(b"wait 2"))
        writer.write(request(b"third", "/nope"))
        await until(lambda: made.hot.waiting)
        await asyncio.sleep(0.02)
        assert made.hot.asked == [b"wait 1"]
        made.hot.waiting[0].set_result(b"1")
        await until(lambda: len(made.hot.waiting) == 2)
        assert not made.scopes
        made.hot.waiting[1].set_result(b"2")
        assert [(await read_reply(reader)).body for _ in range(3)] == [b"1", b"2", b'["POST", "/nope", 5]']
        writer.close()


@pytest.mark.parametrize("count", [1, 50])
async def test_a_half_closed_client_gets_all_of_its_answers(count: int) -> None:
    async with world() as made:
        reader, writer = await connect(made)
        writer.write(request(b"wait 0") + request() * (count - 1))
        writer.write_eof()
        await until(lambda: made.hot.waiting)
        await asyncio.sleep(0.01)
        made.hot.waiting[0].set_result(b"0")
        statuses = [(await asyncio.wait_for(read_reply(reader), GUARD_S)).status for _ in range(count)]
        assert statuses == [200] * count
        assert await reader.read() == b""
        writer.close()
        assert made.models.observed == [("predict", 200)] * count


async def test_http_1_0_is_kept_alive_where_it_asks_for_it() -> None:
    async with world() as made:
        old = b"POST /predict HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n42"
        replies = await ask(made, old, old, count=2)
        assert [reply.headers["connection"] for reply in replies] == ["keep-alive"] * 2
        reader, writer = await connect(made)
        writer.write(old.replace(b"Connection: keep-alive\r\n", b""))
        assert (await read_reply(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        writer.close()


async def test_after_connection_close_nothing_more_is_answered() -> None:
    async with world() as made:
        reader, writer = await connect(made)
        writer.write(request(BODY, "/predict", "Connection: close") + request())
        assert (await read_reply(reader)).headers["connection"] == "close"
        assert await reader.read() == b""
        assert made.hot.asked == [BODY]
        writer.close()


# Limits.


@pytest.mark.parametrize(
    "flood",
    [
        b"POST /predict HTTP/1.1\r\nHost: here\r\n" + b"x: y\r\n" * 1_000_000,
        b"POST /predict HTTP/1.1\r\nHost: here\r\nx: " + b"y" * 6_000_000,
        b"POST /predict HTTP/1.1\r\nHost: here\r\n" + b"y" * 6_000_000,
        b"GET /" + b"y" * 6_000_000,
        CHUNKED + b"1\r\na\r\n0\r\nx: " + b"y" * 6_000_000,
        CHUNKED + b"1;" + b"y" * 6_000_000,
    ],
    ids=["headers", "a value", "a name", "a path", "a trailer", "a chunk extension"],
)  # fmt: skip
async def test_a_head_without_end_is_refused_before_it_is_kept(flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as made:
        kept = 0
        parse = HttpProtocol._feed_piece

        def count(protocol: HttpProtocol, piece: bytes) -> None:
            nonlocal kept
            kept += len(piece)
            parse(protocol, piece)

        monkeypatch.setattr(HttpProtocol, "_feed_piece", count)
        (reply,) = await ask(made, flood)
        assert (reply.status, reply.code) == (431, "headers_too_large")
        assert reply.headers["connection"] == "close"
        assert kept < 40_000


async def test_heads_within_the_limits_are_read() -> None:
    async with world(max_header_bytes=4_096, max_headers=20, max_request_line_bytes=1_000) as made:
        many = [f"x-{number}: y" for number in range(18)]
        assert (await ask(made, request(BODY, "/predict", *many)))[0].status == 200
        assert (await ask(made, request(BODY, "/predict", *many, "one: more")))[0].status == 431
        assert (await ask(made, request(BODY, "/predict?" + "q" * 991)))[0].status == 200
        assert (await ask(made, request(BODY, "/predict?" + "q" * 992)))[0].status == 431
        assert (await ask(made, request(BODY, "/predict", "x: " + "y" * 3_900)))[0].status == 200
        assert (await ask(made, request(BODY, "/predict", "x: " + "y" * 6_200)))[0].status == 431
        # Each request of a connection has the limit of its own.
        long = request(b"z" * 3_000, "/predict", "x: " + "y" * 3_000)
        assert [reply.status for reply in await ask(made, long * 20, count=20)] == [200] * 20


@pytest.mark.parametrize("path", ["/predict", "/v2/models/churn/infer", "/nope"])
async def test_a_body_that_is_too_large_is_refused_read_and_forgotten(path: str) -> None:
    async with world(max_predict_bytes=1_000, max_body_bytes=1_024) as made:
        reader, writer = await connect(made)
        writer.write(request(b"z" * 3_000_000, path))
        await writer.drain()  # a client that reads only when it has written
        reply = await read_reply(reader)
        assert (reply.status, reply.code, reply.headers["connection"]) == (413, "too_large", "close")
        assert await reader.read() == b""
        writer.close()


async def test_a_chunked_body_has_the_same_limit() -> None:
    async with world(max_predict_bytes=1_000) as made:
        assert (await ask(made, CHUNKED + b"a\r\n" + b"1" * 10 + b"\r\n0\r\nx: y\r\n\r\n"))[0].body == b"1" * 10
        chunk = b"190\r\n" + b"1" * 400 + b"\r\n"
        (reply,) = await ask(made, CHUNKED + chunk, chunk, chunk, chunk)
        assert (reply.status, reply.code) == (413, "too_large")


async def test_bodies_are_reserved_before_they_are_read_and_one_too_many_is_shed() -> None:
    async with world(max_bodies_bytes=1_000_000, max_predict_bytes=1_000_000) as made:
        half = [await connect(made) for _ in range(3)]
        for _, writer in half:
            writer.write(request(b"z" * 400_000)[:-1])
        third = await read_reply(half[2][0])
        assert (third.status, third.code, third.headers["retry-after"]) == (503, "overloaded", "1")
        assert (await ask(made, request()))[0].status == 200  # a small one always has room
        for _, writer in half[:2]:
            writer.write(b"z")
        assert [(await read_reply(reader)).status for reader, _ in half[:2]] == [200, 200]
        for _, writer in half:
            writer.close()


async def test_a_connection_too_many_is_refused() -> None:
    async with world(max_connections=2) as made:
        opened = [await connect(made) for _ in range(3)]
        reply = await asyncio.wait_for(read_reply(opened[2][0]), GUARD_S)
        assert (reply.status, reply.code) == (503, "overloaded")
        for reader, writer in opened[:2]:
            writer.write(request())
            assert (await read_reply(reader)).status == 200
        for _, writer in opened:
            writer.close()


async def test_a_client_that_does_not_read_is_not_answered_further_and_one_that_reads_again_is() -> None:
    async with world() as made:
        reader, writer = await connect(made)
        big = b"z" * 60_000
        for _ in range(400):
            writer.write(request(big))
        await until(lambda: made.connection()._is_write_paused)
        asked = len(made.hot.asked)
        await asyncio.sleep(0.02)
        assert len(made.hot.asked) == asked < 400
        for _ in range(400):
            assert (await asyncio.wait_for(read_reply(reader), GUARD_S)).body == big
        writer.close()


# What is not HTTP, and what would be read in two ways.

_PLAIN = b"Host: here\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + _PLAIN * 2 + b"\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /predict HTTP/1.0\r\n" + _PLAIN + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length : 2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length: +2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length: 2, 2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length: 0x2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Content-Length: 99999999999999999999999\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"x: y\r\n folded\r\nContent-Length: 2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"x: a\0b\r\nContent-Length: 2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"x: y\nContent-Length: 2\r\n\r\n42",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: chunked\r\n\r\n2\r\n42zz\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\n" + _PLAIN + b"Transfer-Encoding: chunked\r\n\r\n2\n42\r\n0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + _PLAIN + b"Authorization: a\r\nAuthorization: b\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_two_servers_might_read_differently_is_refused_with_a_body_of_the_table(data: bytes) -> None:
    async with world() as made:
        reader, writer = await connect(made)
        writer.write(data + request())
        reply = await asyncio.wait_for(read_reply(reader), GUARD_S)
        assert (reply.status, reply.code) == (400, "bad_request")
        assert reply.headers["connection"] == "close"
        writer.write_eof()
        assert await reader.read() == b""  # and the bytes behind it are no request
        assert not made.hot.asked
        writer.close()


async def test_a_compressed_body_is_refused_and_identity_is_not() -> None:
    async with world() as made:
        (reply,) = await ask(made, request(gzip.compress(BODY), "/predict", "Content-Encoding: gzip"))
        assert (reply.status, reply.code) == (415, "unsupported_encoding")
        assert (await ask(made, request(BODY, "/predict", "Content-Encoding: identity")))[0].status == 200


async def test_http_2_prior_knowledge_is_told_to_speak_http_1() -> None:
    async with world() as made:
        reader, writer = await connect(made)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        writer.write_eof()
        frames = await asyncio.wait_for(reader.read(), GUARD_S)
        assert frames[:9] == b"\0\0\0\4\0\0\0\0\0"
        goaway = frames[9:]
        assert int.from_bytes(goaway[:3], "big") == len(goaway) - 9
        assert (goaway[3], goaway[13:17]) == (7, b"\0\0\0\x0d")
        assert b"HTTP/1.1" in goaway[17:]
        writer.close()


async def test_an_offer_to_upgrade_is_ignored_and_the_body_read() -> None:
    """Java's HttpClient sends this with its first request, and curl --http2."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    async with world() as made:
        data = request(BODY, "/predict", *upgrade)
        for cut in (len(data), len(data) - 3, len(data) - len(BODY)):
            assert (await ask(made, data[:cut], data[cut:] + request(b"2"), count=2))[0].body == BODY
        assert (await ask(made, request(b"", "/nope", *upgrade, method="GET")))[0].status == 200


async def test_connect_is_refused() -> None:
    async with world() as made:
        (reply,) = await ask(made, b"CONNECT here:443 HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (reply.status, reply.code) == (405, "method_not_allowed")


# Time.


@pytest.mark.parametrize("path", ["/predict", "/nope"])
async def test_a_body_that_does_not_come_is_a_408_and_no_error_of_the_server(path: str) -> None:
    async with world(deadline_ms=20) as made:
        reader, writer = await connect(made)
        writer.write(request(BODY, path)[:-1])
        reply = await asyncio.wait_for(read_reply(reader), GUARD_S)
        assert (reply.status, reply.code, reply.headers["connection"]) == (408, "request_timeout", "close")
        writer.close()
        assert made.models.observed == ([("predict", 408)] if path == "/predict" else [])


async def test_a_client_that_leaves_is_a_499_and_its_prediction_is_dropped() -> None:
    async with world() as made:
        for data in (request(b"wait"), request(b"wait")[:-1]):
            _, writer = await connect(made)
            writer.write(data)
            await until(lambda: made.state.connections and made.connection()._head)
            reset(writer)
            await until(lambda: not made.state.connections)
        assert made.models.observed == [("predict", 499)] * 2
        assert [future.cancelled() for future in made.hot.waiting] == [True]


async def test_the_sweep_closes_who_is_too_slow_and_nobody_else() -> None:
    async with world() as made:
        for sent, limit_s in ((b"", http_protocol.KEEP_ALIVE_S), (b"POST /pre", http_protocol.HEADERS_S)):
            reader, writer = await connect(made)
            writer.write(sent)
            await until(lambda: made.state.connections)
            await asyncio.sleep(0.01)
            now_s = made.service.clock()
            made.connection().sweep(now_s + limit_s - 1)
            assert not made.connection()._transport.is_closing()
            made.connection().sweep(now_s + limit_s + 1)
            assert await asyncio.wait_for(reader.read(), GUARD_S) == b""
            writer.close()
            await until(lambda: not made.state.connections)
        reader, writer = await connect(made)
        writer.write(request(b"wait"))
        await until(lambda: made.hot.waiting)
        made.connection().sweep(made.service.clock() + 3_600)
        made.hot.waiting[0].set_result(b"done")
        assert (await read_reply(reader)).body == b"done"
        writer.close()


async def test_at_the_end_idle_connections_close_and_others_after_their_answer() -> None:
    async with world() as made:
        idle, idle_writer = await connect(made)
        reader, writer = await connect(made)
        writer.write(request(b"wait") + request(b"second"))
        await until(lambda: made.hot.waiting)
        for connection in list(made.state.connections):
            connection.shutdown()
        assert await asyncio.wait_for(idle.read(), GUARD_S) == b""
        made.hot.waiting[0].set_result(b"first")
        first, second = [await asyncio.wait_for(read_reply(reader), GUARD_S) for _ in range(2)]
        assert [first.body, second.body] == [b"first", b"second"]
        assert second.headers["connection"] == "close"
        assert await reader.read() == b""
        for each in (writer, idle_writer):
            each.close()


async def test_a_request_may_be_on_its_way_on_what_was_opened_or_used_or_begun_a_moment_ago() -> None:
    async with world() as made:
        for sent in (b"", request(BODY), b"POST /pre"):
            reader, writer = await connect(made)
            writer.write(sent)
            if sent.endswith(BODY):
                assert (await read_reply(reader)).status == 200
            await until(lambda: made.state.connections)
            now_s = made.service.clock()
            assert made.connection().may_ask(now_s)
            assert made.connection().may_ask(now_s + http_protocol.LAST_REQUEST_S - 1)
            assert not made.connection().may_ask(now_s + http_protocol.LAST_REQUEST_S + 1)
            writer.close()
            await until(lambda: not made.state.connections)


async def test_while_draining_every_answer_asks_to_leave() -> None:
    async with world() as made:
        made.models.draining = True
        for path in ("/predict", "/nope"):
            reader, writer = await connect(made)
            writer.write(request(BODY, path))
            assert (await read_reply(reader)).headers["connection"] == "close"
            assert await reader.read() == b""
            writer.close()


# What a request may say about itself.


async def test_the_request_id_comes_back_and_one_that_could_do_harm_does_not() -> None:
    async with world() as made:
        for path in ("/predict", "/nope"):
            for body in (BODY, b"refuse"):
                (reply,) = await ask(made, request(body, path, "X-Request-Id: abc-1/2 3"))
                assert reply.headers["x-request-id"] == "abc-1/2 3"
            (refused,) = await ask(made, request(BODY, path, "X-Request-Id: one", "Content-Encoding: br"))
            assert refused.status == 415
            for bad in ("x" * 129, "tab\there", "ümlaut"):
                (reply,) = await ask(made, request(BODY, path, f"X-Request-Id: {bad}"))
                assert "x-request-id" not in reply.headers


async def test_an_allowed_origin_may_read_every_answer() -> None:
    settings = SimpleNamespace(allow_origins=["https://a.example"], allow_origin_regex=None, allow_credentials=True)
    async with world() as made:
        made.service.cors = CorsPolicy(settings)
        for path in ("/predict", "/nope", "/v2/models/nobody/infer"):
            (reply,) = await ask(made, request(BODY, path, "Origin: https://a.example"))
            assert reply.headers["access-control-allow-origin"] == "https://a.example"
            assert reply.headers["access-control-allow-credentials"] == "true"
            assert reply.headers["vary"] == "Origin"
            (reply,) = await ask(made, request(BODY, path, "Origin: https://b.example"))
            assert "access-control-allow-origin" not in reply.headers


async def test_tokens_are_asked_for_before_the_body_but_for_health_and_preflights() -> None:
    async with world() as made:
        made.service.tokens = Tokens([SecretStr(TOKEN).get_secret_value()])
        for path in ("/predict", "/nope"):
            (reply,) = await ask(made, request(b"z" * 60_000, path)[:300])
            assert (reply.status, reply.code) == (401, "unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
            for _ in range(3):  # a known head carries its token
                assert (await ask(made, request(BODY, path, f"Authorization: Bearer {TOKEN}")))[0].status == 200
            assert (await ask(made, request(BODY, path, f"Authorization: Bearer {TOKEN}x")))[0].status == 401
        assert (await ask(made, request(b"", "/v2/health/live", method="GET")))[0].status == 200
        preflight = ("Origin: https://a.example", "Access-Control-Request-Method: POST")
        assert (await ask(made, request(b"", "/predict", *preflight, method="OPTIONS")))[0].status == 401
        made.service.cors = CorsPolicy(
            SimpleNamespace(allow_origins=["*"], allow_origin_regex=None, allow_credentials=False)
        )
        assert (await ask(made, request(b"", "/predict", *preflight, method="OPTIONS")))[0].status == 200
        assert (await ask(made, request(b"", "/predict", method="OPTIONS")))[0].status == 401
        assert not [path for path, status in made.models.observed if status == 401]


async def test_head_answers_as_get_does_without_the_body() -> None:
    async with world() as made:
        reader, writer = await connect(made)
        writer.write(request(b"", "/nope", method="HEAD") + request(b"", "/nope", method="GET"))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), GUARD_S)
        reply = await asyncio.wait_for(read_reply(reader), GUARD_S)
        assert b"content-length: %d\r\n" % len(reply.body) in head
        assert reply.body.startswith(b'["GET"')
        writer.close()


async def test_a_client_that_waits_for_100_continue_gets_it_or_the_refusal() -> None:
    async with world(max_predict_bytes=1_000) as made:
        reader, writer = await connect(made)
        data = request(BODY, "/predict", "Expect: 100-continue")
        writer.write(data[: -len(BODY)])
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), GUARD_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await read_reply(reader)).body == BODY
        writer.write(request(b"z" * 2_000, "/predict", "Expect: 100-continue")[:-2_000])
        assert (await read_reply(reader)).status == 413
        writer.close()
