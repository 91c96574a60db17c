"""A real sink of CloudEvents on 127.0.0.1, over HTTP or HTTPS, that answers as the test says."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple


class ReceivedRequest(NamedTuple):
    headers: dict[str, str]
    body: Any


@dataclass
class EventReceiver:
    """What a sink received; answers: the statuses of the next requests, then 202."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    received: list[ReceivedRequest] = field(default_factory=list)
    accepted: list[ReceivedRequest] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that were accepted in batches."""
        return [event for request in self.accepted for event in request.body]


@contextmanager
def event_receiver(certificate: Path | None = None, key: Path | None = None) -> Iterator[EventReceiver]:
    """Run a sink until the block ends; with a certificate: over HTTPS."""
    receiver = EventReceiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            request = ReceivedRequest({name.lower(): value for name, value in self.headers.items()}, body)
            receiver.received.append(request)
            status = receiver.answers.pop(0) if receiver.answers else 202
            if status < 300:
                receiver.accepted.append(request)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    receiver.url = f"{scheme}://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
