"""A server whose answers a test defines: raw bytes over real sockets, one thread per connection."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

from tests.support.programs import GUARD_S

Reply = bytes | None  # None: close the connection without an answer


def ok(body: bytes = b'{"churn_probability": 0.5}', status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


@contextmanager
def answering(reply: Callable[[int], Reply], *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve HTTP/1.1 on a free port; request number n (from 0) gets reply(n). Yields the port."""
    numbers = count()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
                opened.append(connection)
            while read_request(connection):
                answer = reply(next(numbers))
                if answer is None:
                    break
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    break
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                opened.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection,), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        for each in [listener, *opened]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in [acceptor, *threads]:
            thread.join(GUARD_S)


def read_request(connection: socket.socket) -> bytes:
    """Read one request with a Content-Length; b"" when the client has disconnected."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65_536)
        if not data:
            return b""
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        data = connection.recv(65_536)
        if not data:
            return b""
        body += data
    return head + b"\r\n\r\n" + body
