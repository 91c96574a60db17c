import struct
from typing import Any

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.connection import Answer
from benchmarks.load.http2 import (
    ACK,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAXIMUM_FRAME,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    GrpcCodec,
    grpc_bodies,
    grpc_header_block,
)
from benchmarks.load.target import parse_target


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def block(*headers: tuple[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(headers)


def unary(stream: int, *trailers: tuple[str, str]) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, block((":status", "200"), ("content-type", "application/grpc")))
        + frame(DATA, 0, stream, b"\0\0\0\0\0")
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, block(*trailers))
    )


@pytest.fixture
def codec() -> GrpcCodec:
    opened = GrpcCodec(grpc_header_block(parse_target("grpc://host:1"), "/m"), grpc_bodies([b"message"]))
    opened.greeting()
    opened.request(0)
    return opened


def ask(codec: GrpcCodec, *pieces: bytes) -> list[Answer]:
    return [answer for piece in pieces if (answer := codec.feed(piece)) is not None]


@given(st.data())
def test_an_answer_is_the_same_however_the_network_cuts_it(data: st.DataObject) -> None:
    codec = GrpcCodec(b"", grpc_bodies([b"m"]))
    for stream in (1, 3):
        codec.request(0)
        response = unary(stream, ("grpc-status", "0"))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(response) - 1), max_size=6)))
        pieces = [response[start:end] for start, end in zip([0, *cuts], [*cuts, len(response)], strict=True)]
        (answer,) = ask(codec, *pieces)
        assert answer.error is None


def test_an_error_status_is_counted_by_its_number_with_its_message(codec: GrpcCodec) -> None:
    (answer,) = ask(codec, unary(1, ("grpc-status", "8"), ("grpc-message", "overloaded")))
    assert (answer.error, answer.detail) == ("gRPC status 8", "overloaded")


def test_a_proxy_that_answers_without_grpc_is_an_error(codec: GrpcCodec) -> None:
    page = frame(HEADERS, END_HEADERS, 1, block((":status", "503"))) + frame(DATA, END_STREAM, 1, b"no upstream")
    (answer,) = ask(codec, page)
    assert answer.error == "HTTP 503"


def test_padding_is_taken_off(codec: GrpcCodec) -> None:
    trailers = block(("grpc-status", "0"))
    padded = bytes((4,)) + trailers + bytes(4)
    (answer,) = ask(codec, frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, padded))
    assert answer.error is None


def test_a_reset_stream_is_an_error(codec: GrpcCodec) -> None:
    (answer,) = ask(codec, frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))
    assert answer.error == "HTTP/2 reset 7"


def test_settings_and_pings_are_acknowledged(codec: GrpcCodec) -> None:
    assert not ask(codec, frame(SETTINGS, 0, 0, b"") + frame(PING, 0, 0, b"12345678"))
    assert bytes(codec.control) == frame(SETTINGS, ACK, 0, b"") + frame(PING, ACK, 0, b"12345678")


def test_a_server_that_goes_away_is_left_after_the_answer(codec: GrpcCodec) -> None:
    assert not ask(codec, frame(GOAWAY, 0, 0, bytes(8)))
    assert not codec.reusable


def test_a_connection_without_window_is_left() -> None:
    body = bytes(16_000)
    codec = GrpcCodec(b"", grpc_bodies([body]))
    answered = 0
    while codec.reusable:
        codec.request(0)
        answered += len(ask(codec, unary(1, ("grpc-status", "0"))))
    assert answered * len(body) <= DEFAULT_WINDOW


def test_a_window_update_keeps_the_connection() -> None:
    codec = GrpcCodec(b"", grpc_bodies([bytes(16_000)]))
    for _ in range(20):
        codec.request(0)
        ask(codec, frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 16_005)) + unary(1, ("grpc-status", "0")))
        assert codec.reusable


def test_a_request_is_a_preface_and_headers_that_any_decoder_reads() -> None:
    long = "Bearer " + "x" * 300
    target = parse_target("grpcs://host/prefix", [f"Authorization: {long}", "seldon: churn"])
    codec = GrpcCodec(grpc_header_block(target, "/inference.GRPCInferenceService/ModelInfer"), grpc_bodies([b"hello"]))
    assert codec.greeting().startswith(PREFACE)
    request = codec.request(0)
    length = int.from_bytes(request[:3], "big")
    headers = dict(Decoder().decode(request[9 : 9 + length]))
    assert dict[Any, Any](headers) == {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/prefix/inference.GRPCInferenceService/ModelInfer",
        ":authority": "host",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "churn-load-test",
        "authorization": long,
        "seldon": "churn",
    }
    assert request.endswith(b"\0\0\0\0\5hello")


def test_a_message_beyond_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=str(MAXIMUM_FRAME - 5)):
        grpc_bodies([bytes(MAXIMUM_FRAME)])
