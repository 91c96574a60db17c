import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.connection import Answer
from benchmarks.load.http1 import Http1Codec, http1_requests
from benchmarks.load.target import parse_target
from tests.support.answering import ok

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


def fed(codec: Http1Codec, pieces: list[bytes]) -> list[Answer]:
    return [answer for piece in pieces if (answer := codec.feed(piece)) is not None]


@given(st.sampled_from([ok(), ok(b""), CHUNKED]), st.data())
def test_an_answer_is_the_same_however_the_network_cuts_it(response: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(response) - 1), max_size=5)))
    pieces = [response[start:end] for start, end in zip([0, *cuts], [*cuts, len(response)], strict=True)]
    codec = Http1Codec([])
    for _ in range(2):  # the connection is kept, and its parser too
        (answer,) = fed(codec, pieces)
        assert answer.error is None
        assert codec.reusable


def test_an_error_status_is_counted_by_its_number_with_its_body() -> None:
    (answer,) = fed(Http1Codec([]), [ok(b'{"code": "overloaded"}', status="503 Service Unavailable")])
    assert (answer.error, answer.detail) == ("HTTP 503", '{"code": "overloaded"}')


def test_a_server_that_closes_is_believed() -> None:
    codec = Http1Codec([])
    fed(codec, [ok(headers="Connection: close\r\n")])
    assert not codec.reusable


def test_what_is_not_http_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"not HTTP/1\.1"):
        Http1Codec([]).feed(b"SSH-2.0-OpenSSH_9.6\r\n")


def test_a_request_has_the_prefix_and_every_header_once() -> None:
    target = parse_target("http://gateway/seldon/prod/churn", ["Host: churn.example", "Authorization: Bearer x"])
    (request,) = http1_requests(target, "/predict", [b"{}"])
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /seldon/prod/churn/predict HTTP/1.1"
    assert lines.count("Host: churn.example") == 1
    assert not any(line.startswith("Host: gateway") for line in lines)
    assert "Authorization: Bearer x" in lines
    assert "Content-Length: 2" in lines
    assert body == b"{}"
