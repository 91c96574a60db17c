"""A raw HTTP/2 client for tests: it can send invalid frames, and sees every frame."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

from tests.support.programs import GUARD_S

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INITIAL_WINDOW_SIZE = 4
CANCEL, ENHANCE_YOUR_CALM = 8, 11
ANSWER_S = GUARD_S


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(content: bytes, *, compressed: bool = False) -> bytes:
    return bytes((compressed,)) + len(content).to_bytes(4, "big") + content


@dataclass
class Answer:
    """The answer on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    is_over: bool = False

    @property
    def status(self) -> str:
        return (self.trailers or self.headers).get("grpc-status", "none")

    @property
    def code(self) -> str:
        return (self.trailers or self.headers).get("error-code", "")

    @property
    def messages(self) -> list[bytes]:
        found, start = [], 0
        while start < len(self.body):
            end = start + 5 + int.from_bytes(self.body[start + 1 : start + 5], "big")
            found.append(self.body[start + 5 : end])
            start = end
        return found


class RawClient:
    """One connection. By default it acknowledges SETTINGS and PINGs; it never grants a window by itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.answers: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int]] = []  # last stream, error code
        self.pings: list[bytes] = []
        self.acknowledged = 0
        self.acknowledges = True
        self._encoder, self._decoder = Encoder(), Decoder()
        self._buffer = b""
        self._stream = -1

    @classmethod
    async def connect(cls, port: int, *, window: int = 2**31 - 1, greet: bool = True) -> RawClient:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        if greet:
            client.writer.write(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
            if window > 65_535:
                client.writer.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", window - 65_535)))
        return client

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.writer.write(frame(kind, flags, stream, payload))

    def block(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        named = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers"}
        return bytes(
            self._encoder.encode(list((named | {"content-type": "application/grpc"} | (headers or {})).items()))
        )

    def open(self, path: str, headers: dict[str, str] | None = None, *, end: bool = False) -> int:
        """Send the head of a call; return its stream."""
        self._stream += 2
        self.send(HEADERS, END_HEADERS | (END_STREAM if end else 0), self._stream, self.block(path, headers))
        return self._stream

    def call(self, path: str, *contents: bytes, headers: dict[str, str] | None = None) -> int:
        """Send a whole call; return its stream."""
        stream = self.open(path, headers)
        self.send(DATA, END_STREAM, stream, b"".join(message(content) for content in contents))
        return stream

    def grant(self, size: int, *streams: int) -> None:
        for stream in streams:
            self.send(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))

    async def answer(self, stream: int) -> Answer:
        """Read until a stream is over."""
        found = self.answers.setdefault(stream, Answer())
        async with asyncio.timeout(ANSWER_S):
            while not found.is_over and await self.read():
                pass
        return found

    async def ask(self, path: str, content: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        return await self.answer(self.call(path, content, headers=headers))

    async def until_closed(self) -> None:
        async with asyncio.timeout(ANSWER_S):
            while await self.read():
                pass

    async def read(self) -> bool:
        """Read what comes next; False: the connection is closed."""
        try:
            data = await self.reader.read(65_536)
        except ConnectionError:
            return False
        self._buffer += data
        while len(self._buffer) >= 9:
            end = 9 + int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < end:
                break
            kind, flags = self._buffer[3], self._buffer[4]
            stream = int.from_bytes(self._buffer[5:9], "big")
            payload, self._buffer = self._buffer[9:end], self._buffer[end:]
            self._take(kind, flags, stream, payload)
        return bool(data)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        found = self.answers.setdefault(stream, Answer())
        if kind == HEADERS:
            headers = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if found.headers:
                found.trailers = headers
            else:
                found.headers = headers
        elif kind == DATA:
            found.body += payload
        elif kind == RST_STREAM:
            if found.reset is None:
                found.reset = int.from_bytes(payload, "big")
            found.is_over = True
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")))
        elif kind == SETTINGS and flags & ACK:
            self.acknowledged += 1
        elif kind == PING and not flags & ACK:
            self.pings.append(payload)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            found.is_over = True
        if self.acknowledges and kind in (SETTINGS, PING) and not flags & ACK:
            self.send(kind, ACK, 0, payload if kind == PING else b"")
