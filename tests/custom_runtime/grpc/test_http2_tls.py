"""The same port with TLS, and with the clients of grpcio."""

from pathlib import Path

import grpc
import pytest
from grpc import aio

from tests.support.certificates import Authority
from tests.support.grpc_port import Listening, Port
from tests.support.http2 import RawClient
from tests.support.programs import GUARD_S


async def echo(channel: aio.Channel, content: bytes) -> bytes:
    async with channel:
        answer: bytes = await channel.unary_unary("/t/Echo")(content, timeout=GUARD_S)
        return answer


async def test_a_client_of_grpcio_is_answered(port: Port) -> None:
    assert await echo(aio.insecure_channel(f"127.0.0.1:{port.number}"), b"hello") == b"hello"
    assert await echo(aio.insecure_channel(f"127.0.0.1:{port.number}"), b"x" * 1_000_000) == b"x" * 1_000_000


async def test_a_client_of_grpcio_packs_its_requests(port: Port) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{port.number}", compression=grpc.Compression.Gzip) as channel:
        assert await channel.unary_unary("/t/Echo")(b"x" * 10_000, timeout=GUARD_S) == b"x" * 10_000


async def test_an_error_has_its_words_and_its_code(port: Port) -> None:
    async with aio.insecure_channel(f"127.0.0.1:{port.number}") as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await channel.unary_unary("/t/Fail")("é %".encode(), timeout=GUARD_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "100 % wrong: é %"
    assert dict(caught.value.trailing_metadata() or ())["error-code"] == "invalid_input"


async def test_tls_is_spoken_with_alpn_and_nothing_else(listening: Listening, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    async with listening(tls_cert=pair.cert, tls_key=pair.key) as port:
        address = f"127.0.0.1:{port.number}"
        trusted = grpc.ssl_channel_credentials(authority.pair.cert.read_bytes())
        assert await echo(aio.secure_channel(address, trusted), b"hello") == b"hello"
        with pytest.raises(aio.AioRpcError):
            await echo(aio.insecure_channel(address), b"hello")
        async with await RawClient.connect(port.number) as client:
            await client.until_closed()
            assert not client.answers


async def test_mutual_tls_accepts_only_a_certificate_of_the_authority(listening: Listening, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, known = authority.issue("server"), authority.issue("client")
    stranger_folder = tmp_path / "stranger"
    stranger_folder.mkdir()
    stranger = Authority(stranger_folder).issue("client")
    async with listening(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.pair.cert) as port:
        for shown, is_accepted in ((known, True), (stranger, False), (None, False)):
            client = () if shown is None else (shown.key.read_bytes(), shown.cert.read_bytes())
            credentials = grpc.ssl_channel_credentials(authority.pair.cert.read_bytes(), *client)
            channel = aio.secure_channel(f"127.0.0.1:{port.number}", credentials)
            if is_accepted:
                assert await echo(channel, b"hello") == b"hello"
            else:
                with pytest.raises(aio.AioRpcError):
                    await echo(channel, b"hello")
