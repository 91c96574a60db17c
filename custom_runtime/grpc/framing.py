"""gRPC over HTTP/2 in bytes: message prefixes, compression, deadlines and trailers (PROTOCOL-HTTP2.md of gRPC). Pure.

A message on the wire is one byte (1: compressed), its length as four bytes, big-endian, and the message.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from custom_runtime.errors import Internal, InvalidInput, ServingError, TooLarge, UnsupportedEncoding, quoted

Headers = list[tuple[bytes, bytes]]

PREFIX_BYTES = 5
# The codings that a request may come in; zlib reads both. Answers are never compressed: they are small numbers.
ENCODINGS = frozenset((b"gzip", b"deflate"))
ACCEPTED = (b"grpc-accept-encoding", b"identity,gzip,deflate")

CONTENT_TYPE = (b"content-type", b"application/grpc")
OK_TRAILERS: Headers = [(b"grpc-status", b"0")]

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html; the names are those of errors.py.
STATUS_NUMBERS = {
    "OK": 0, "CANCELLED": 1, "UNKNOWN": 2, "INVALID_ARGUMENT": 3, "DEADLINE_EXCEEDED": 4, "NOT_FOUND": 5,
    "PERMISSION_DENIED": 7, "RESOURCE_EXHAUSTED": 8, "FAILED_PRECONDITION": 9, "UNIMPLEMENTED": 12, "INTERNAL": 13,
    "UNAVAILABLE": 14, "UNAUTHENTICATED": 16,
}  # fmt: skip

_TIMEOUT_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT_DIGITS = 8


def parse_timeout(value: bytes) -> float:
    """Return the seconds of a grpc-timeout: at most eight digits and a unit. Raises InvalidInput."""
    digits, unit = value[:-1], value[-1:]
    if not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS or unit not in _TIMEOUT_UNITS_S:
        raise InvalidInput(f"grpc-timeout is {quoted(value)}; allowed: 1 to 8 digits and one of H, M, S, m, u, n")
    return int(digits) * _TIMEOUT_UNITS_S[unit]


def frame(message: bytes) -> bytes:
    """Return a message as it goes on the wire."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def error_trailers(error: ServingError) -> Headers:
    """Return the trailers of an error: gRPC's status, its words, and our own stable code."""
    words = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    return [
        (b"grpc-status", b"%d" % STATUS_NUMBERS[error.grpc]),
        (b"grpc-message", percent_encode(words)),
        (b"error-code", error.code.encode()),
    ]


def percent_encode(words: str) -> bytes:
    """Return a grpc-message: UTF-8, all but printable ASCII as %XX."""
    raw = words.encode(errors="replace")
    if words.isascii() and words.isprintable() and b"%" not in raw:
        return raw
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)


class MessageReader:
    """The bytes of one call -> its messages. Raises TooLarge from the prefix alone, before a body is read."""

    __slots__ = ("_buffer", "_compressed", "_limit_bytes")

    def __init__(self, *, limit_bytes: int, encoding: bytes) -> None:
        self._limit_bytes = limit_bytes
        self._compressed = encoding in ENCODINGS
        self._buffer = bytearray()

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that has not arrived whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take bytes; return the messages that are whole now. Raises TooLarge or InvalidInput."""
        buffer = self._buffer
        if not buffer and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == len(data) - PREFIX_BYTES:
            if len(data) - PREFIX_BYTES > self._limit_bytes:
                raise _too_large(len(data) - PREFIX_BYTES, self._limit_bytes)
            return (data[PREFIX_BYTES:],)  # the usual case: one frame, one message
        buffer += data
        messages: list[bytes] = []
        start, size = 0, len(buffer)
        while size - start >= PREFIX_BYTES:
            flag, length = buffer[start], int.from_bytes(buffer[start + 1 : start + PREFIX_BYTES], "big")
            if length > self._limit_bytes:
                raise _too_large(length, self._limit_bytes)
            if flag > 1 or (flag and not self._compressed):
                raise InvalidInput("a message is marked as compressed, and grpc-encoding names no compression")
            end = start + PREFIX_BYTES + length
            if end > size:
                break
            message = bytes(buffer[start + PREFIX_BYTES : end])
            messages.append(inflate(message, self._limit_bytes) if flag else message)
            start = end
        if start:
            del buffer[:start]
        return messages


def inflate(message: bytes, limit_bytes: int) -> bytes:
    """Return an unpacked gzip or deflate message. Raises TooLarge before more than the limit is made of it."""
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        content = unpacking.decompress(message, limit_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"a compressed message cannot be unpacked: {error}") from None
    if len(content) > limit_bytes:
        raise TooLarge(f"the message has more than {limit_bytes} bytes unpacked; allowed: {limit_bytes}")
    if not unpacking.eof:
        raise InvalidInput("a compressed message ends too early")
    return content


def check_encoding(encoding: bytes) -> None:
    """Raise UnsupportedEncoding for a grpc-encoding that is not supported."""
    if encoding not in ENCODINGS and encoding != b"identity":
        raise UnsupportedEncoding(f"grpc-encoding is {quoted(encoding)}; allowed: identity, gzip, deflate")


def _too_large(length: int, limit_bytes: int) -> TooLarge:
    return TooLarge(f"the message has {length} bytes; allowed: {limit_bytes} (SERVING_MAX_BODY_BYTES)")
