"""The choice of the wire: each connection's codec, HTTP/1.1 or gRPC, over requests that are made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.codec import Codec
from benchmarks.grpc_headers import grpc_header_block
from benchmarks.http1 import Http1Codec, http1_requests
from benchmarks.http2 import GrpcCodec, grpc_bodies
from benchmarks.target import Target


def codec_factory(target: Target, path: str, bodies: Sequence[bytes], *, is_grpc: bool) -> Callable[[], Codec]:
    """Return what makes a connection's codec; the requests are made once, here."""
    if is_grpc:
        return partial(GrpcCodec, grpc_header_block(target, path), grpc_bodies(bodies))
    return partial(Http1Codec, http1_requests(target, path, bodies))
