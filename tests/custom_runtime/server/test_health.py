"""The container's health check: plain, over TLS, and where clients need a certificate."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from custom_runtime.network.tls import Certificates
from custom_runtime.server import health
from tests.support.certificates import Authority
from tests.support.programs import ROOT, free_port


@contextmanager
def answering(status: int, certificates: Certificates | None = None) -> Iterator[str]:
    """Answer the readiness path with a status, and every other one with 404; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v2/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a handshake that is to fail

    server = Server(("127.0.0.1", 0), Handler)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.cert, certificates.key)
        if certificates.client_ca is not None:
            context.load_verify_locations(certificates.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(monkeypatch: pytest.MonkeyPatch, **environment: str) -> int:
    for name in ("MLSERVER_HTTP_PORT", "SERVING_TLS_CERT", "SERVING_TLS_KEY", "SERVING_TLS_CLIENT_CA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return health.main()


@pytest.mark.parametrize(
    ("status", "code", "said"), [(200, 0, ""), (503, 1, "not ready: /v2/health/ready answered 503\n")]
)
def test_it_is_the_readiness_of_the_server(
    status: int, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status) as port:
        assert check(monkeypatch, MLSERVER_HTTP_PORT=port) == code
    assert capsys.readouterr().err == said


def test_without_a_server_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(monkeypatch, MLSERVER_HTTP_PORT=str(free_port())) == 1
    assert capsys.readouterr().err.startswith("not ready: ")


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_it_speaks_tls_where_the_service_does(
    mutual: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    settings = {"SERVING_TLS_CERT": str(pair.cert), "SERVING_TLS_KEY": str(pair.key)}
    if mutual:
        settings["SERVING_TLS_CLIENT_CA"] = str(authority.pair.cert)
    with answering(200, Certificates(pair.cert, pair.key, authority.pair.cert if mutual else None)) as port:
        assert check(monkeypatch, MLSERVER_HTTP_PORT=port, **settings) == 0
        assert check(monkeypatch, MLSERVER_HTTP_PORT=port) == 1  # plain HTTP at a port that speaks TLS
    assert capsys.readouterr().err.startswith("not ready: ")


def test_a_certificate_that_the_client_authority_did_not_sign_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    pair, other = Authority(tmp_path).issue("server"), Authority(tmp_path / "other")
    with answering(200, Certificates(pair.cert, pair.key, other.pair.cert)) as port:
        settings = {"SERVING_TLS_CERT": str(pair.cert), "SERVING_TLS_KEY": str(pair.key)}
        assert check(monkeypatch, MLSERVER_HTTP_PORT=port, SERVING_TLS_CLIENT_CA=str(other.pair.cert), **settings) == 1
    assert capsys.readouterr().err.startswith("not ready: ")


def test_it_imports_the_standard_library_alone() -> None:
    """It runs every 15 seconds beside the server, on the server's core."""
    code = (
        "import sys; before = set(sys.modules); import custom_runtime.server.health;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["custom_runtime"]
