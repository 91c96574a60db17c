"""gRPC's bytes: prefixes, compression, deadlines, trailers."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.errors import Internal, InvalidInput, NotReady, ServingError, TooLarge, UnsupportedEncoding
from custom_runtime.grpc.framing import (
    STATUS_NUMBERS,
    MessageReader,
    check_encoding,
    error_trailers,
    frame,
    inflate,
    parse_timeout,
    percent_encode,
)

LIMIT = 1_000


def reader(encoding: bytes = b"identity") -> MessageReader:
    return MessageReader(limit_bytes=LIMIT, encoding=encoding)


def leaves(kind: type[ServingError]) -> list[type[ServingError]]:
    return [kind, *(leaf for below in kind.__subclasses__() for leaf in leaves(below))]


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(1, 40), max_size=30))
def test_messages_are_the_same_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream, reading = b"".join(map(frame, messages)), reader()
    found: list[bytes] = []
    for cut in cuts:
        part, stream = stream[:cut], stream[cut:]
        found += reading.feed(part) if part else []
    found += reading.feed(stream) if stream else []
    assert found == messages
    assert reading.held_bytes == 0


def test_a_message_that_is_too_large_is_refused_by_its_prefix_alone() -> None:
    with pytest.raises(TooLarge, match="the message has 1001 bytes; allowed: 1000"):
        reader().feed(b"\0" + (LIMIT + 1).to_bytes(4, "big"))
    assert reader().feed(frame(b"x" * LIMIT)) == (b"x" * LIMIT,)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_messages_are_unpacked_within_the_limit(pack: object) -> None:
    packed = pack(b"x" * LIMIT)  # type: ignore[operator]
    assert reader(b"gzip").feed(b"\1" + len(packed).to_bytes(4, "big") + packed) == [b"x" * LIMIT]
    with pytest.raises(TooLarge, match="more than 1000 bytes unpacked"):
        inflate(pack(b"x" * 10_000_000), LIMIT)  # type: ignore[operator]
    with pytest.raises(InvalidInput, match="ends too early"):
        inflate(packed[:-4], LIMIT)
    with pytest.raises(InvalidInput, match="cannot be unpacked"):
        inflate(b"not packed", LIMIT)


def test_a_compressed_message_without_a_coding_is_refused() -> None:
    with pytest.raises(InvalidInput, match="names no compression"):
        reader().feed(b"\1\0\0\0\0")
    with pytest.raises(InvalidInput):
        reader(b"gzip").feed(b"\2\0\0\0\0")
    with pytest.raises(UnsupportedEncoding, match="'snappy'; allowed: identity, gzip, deflate"):
        check_encoding(b"snappy")


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"500m", 0.5), (b"7u", 7e-6), (b"99999999n", 0.1)]
)
def test_deadlines_are_read_in_every_unit(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"123456789S", b"1.5S", b"\xff\xffS"])
def test_other_deadlines_are_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="grpc-timeout is"):
        parse_timeout(value)


def test_every_error_has_a_status_number_and_its_own_code() -> None:
    for kind in leaves(ServingError):
        assert kind.grpc in STATUS_NUMBERS
        trailers = dict(error_trailers(kind("what happened")))
        assert trailers[b"error-code"] == kind.code.encode()
    assert dict(error_trailers(NotReady("loading")))[b"grpc-status"] == b"14"
    assert b"secret" not in dict(error_trailers(Internal("secret")))[b"grpc-message"]


def test_words_are_percent_encoded() -> None:
    assert percent_encode("plain; words") == b"plain; words"
    assert percent_encode("100 % é\n") == b"100 %25 %C3%A9%0A"
    assert percent_encode("\ud800") == b"?"
