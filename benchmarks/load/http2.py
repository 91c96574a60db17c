"""Unary gRPC over HTTP/2, one stream at a time: the little of RFC 9113 that a load client needs.

grpcio's own Python clients spend 100 to 200 us of CPU on a call, as much as the servers they are to measure. Requests
here are bytes made once, and answers cost a walk over the frame headers.

The header blocks of a gRPC call: a request's are made, an answer's are read (HPACK, RFC 7541).

The connection asks for an HPACK table of size 0, so a header block means the same wherever it stands, and each distinct
one is decoded only once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from hpack import Decoder, HPACKError

from benchmarks.load.connection import GOOD, Answer
from benchmarks.load.target import Target

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
FRAME_HEADER_BYTES = 9
DEFAULT_WINDOW = 65_535
MAXIMUM_WINDOW = 2**31 - 1
MAXIMUM_FRAME = 16_384
REPLENISH_BYTES = 2**24
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE = 1, 2, 4


def grpc_bodies(messages: Sequence[bytes]) -> list[bytes]:
    """Return each message with gRPC's prefix: not compressed, and its length. Raises ValueError beyond one frame."""
    longest = max(map(len, messages))
    if longest + 5 > MAXIMUM_FRAME:
        raise ValueError(f"a message has {longest} bytes; this client sends at most {MAXIMUM_FRAME - 5}")
    return [struct.pack(">BI", 0, len(message)) + message for message in messages]


class GrpcCodec:
    """One HTTP/2 connection with one stream open at a time."""

    def __init__(self, header_block: bytes, bodies: Sequence[bytes]) -> None:
        self.reusable = True
        self.control = bytearray()
        self._block = header_block
        self._bodies = bodies
        self._buffer = b""
        self._stream = -1
        self._window = DEFAULT_WINDOW
        self._received = 0
        self._headers = b""
        self._ends = False

    def greeting(self) -> bytes:
        """Return the preface: no push, no header table, windows as wide as they can be."""
        settings = ((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, MAXIMUM_WINDOW))
        return (
            PREFACE
            + _frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings))
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAXIMUM_WINDOW - DEFAULT_WINDOW))
        )

    def request(self, index: int) -> bytes:
        """Return HEADERS and DATA of a new stream."""
        body = self._bodies[index]
        self._stream += 2
        self._window -= len(body)
        return _frame(HEADERS, END_HEADERS, self._stream, self._block) + _frame(DATA, END_STREAM, self._stream, body)

    def feed(self, data: bytes) -> Answer | None:
        """Walk over the frames; an answer is good when its trailers say grpc-status 0."""
        buffer = self._buffer + data if self._buffer else data
        answer = None
        start, size = 0, len(buffer)
        while size - start >= FRAME_HEADER_BYTES:
            length = int.from_bytes(buffer[start : start + 3], "big")
            end = start + FRAME_HEADER_BYTES + length
            if end > size:
                break
            kind, flags = buffer[start + 3], buffer[start + 4]
            stream = int.from_bytes(buffer[start + 5 : start + 9], "big") & MAXIMUM_WINDOW
            answer = self._frame(kind, flags, stream, buffer[start + FRAME_HEADER_BYTES : end]) or answer
            start = end
        self._buffer = buffer[start:]
        if self._window < MAXIMUM_FRAME:
            self.reusable = False  # the server grants no more window: a new connection starts with a full one
        return answer

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> Answer | None:
        if kind == DATA:
            self._received += len(payload)
            if self._received >= REPLENISH_BYTES:
                self.control += _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
                self._received = 0
            if flags & END_STREAM:  # a proxy's own answer: no trailers, only the status in the headers
                return read_header_block(self._headers)
        elif kind in (HEADERS, CONTINUATION):
            return self._header_frame(kind, flags, payload)
        elif kind == RST_STREAM and stream == self._stream:
            return Answer(f"HTTP/2 reset {int.from_bytes(payload, 'big')}")
        elif kind == SETTINGS and not flags & ACK:
            self.control += _frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.control += _frame(PING, ACK, 0, payload)
        elif kind == GOAWAY:
            self.reusable = False
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        return None

    def _header_frame(self, kind: int, flags: int, payload: bytes) -> Answer | None:
        if kind == HEADERS:
            self._ends = bool(flags & END_STREAM)
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & PRIORITY:
                payload = payload[5:]
            self._headers = payload
        else:
            self._headers += payload
        if not flags & END_HEADERS or not self._ends:
            return None
        return read_header_block(self._headers)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def grpc_header_block(target: Target, path: str) -> bytes:
    """Return the HPACK block of a request: static names where there are, all values literal, nothing indexed."""
    block = b"\x83" + (b"\x87" if target.tls else b"\x86")  # :method POST, :scheme https or http
    block += b"\x04" + _text(f"{target.prefix}{path}") + b"\x01" + _text(target.authority)
    headers = [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "churn-load-test")]
    headers += [(name.lower(), value) for name, value in target.headers if name.lower() != "host"]
    return block + b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


@lru_cache(maxsize=1024)
def read_header_block(block: bytes) -> Answer:
    """Return what an answer's last block says: good is grpc-status 0. Raises ValueError when it is not HPACK."""
    try:
        headers = {_str(name): _str(value) for name, value in Decoder().decode(block)}
    except HPACKError as error:
        raise ValueError(f"header block cannot be read: {error}") from error
    status = headers.get("grpc-status")
    if status == "0":
        return GOOD
    label = f"HTTP {headers.get(':status')}" if status is None else f"gRPC status {status}"
    return Answer(label, headers.get("grpc-message", ""))


def _str(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 0x7F:
        return bytes((len(raw),)) + raw
    rest, length = bytearray(), len(raw) - 0x7F
    while length > 0x7F:
        rest.append(length & 0x7F | 0x80)
        length >>= 7
    rest.append(length)
    return b"\x7f" + bytes(rest) + raw
