"""The header blocks of a gRPC call: a request's are made, an answer's are read (HPACK, RFC 7541).

The connection asks for an HPACK table of size 0, so a header block means the same wherever it stands, and each distinct
one is decoded only once.
"""

from __future__ import annotations

from functools import lru_cache

from hpack import Decoder, HPACKError

from benchmarks.codec import GOOD, Answer
from benchmarks.target import Target


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
