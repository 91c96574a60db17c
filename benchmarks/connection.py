"""One connection of the load client: a non-blocking socket, a codec, and at most one request in flight."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from benchmarks.codec import Answer, Codec
from benchmarks.target import Target
from benchmarks.ticket import Ticket

RECEIVE_BYTES = 65_536


class ConnectionLost(Exception):
    """The peer closed the connection, or broke the protocol. silent: before any byte of an answer arrived."""

    def __init__(self, reason: str, *, silent: bool) -> None:
        super().__init__(reason)
        self.silent = silent


class Connection:
    """A connected socket; one thread sends and receives."""

    def __init__(self, connected: socket.socket, codec: Codec) -> None:
        self.socket = connected
        self.codec = codec
        self.ticket: Ticket | None = None
        self.unsent = b""
        self._fed = False
        self._is_tls = isinstance(connected, ssl.SSLSocket)

    def send(self, ticket: Ticket) -> bool:
        """Start a request; return whether all of it was taken (else call `flush` when the socket is writable)."""
        self.ticket = ticket
        self._fed = False
        return self._write(self.codec.request(ticket.index))

    def flush(self) -> bool:
        """Send what was left over; return whether all is sent."""
        return self._write(b"")

    def receive(self) -> Answer | None:
        """Take what arrived; return the answer when it is complete. Raises ConnectionLost."""
        answer = None
        while True:
            try:
                data = self.socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return answer
            except OSError as error:
                raise self._lost(str(error)) from error
            if not data:
                raise self._lost("connection closed")
            self._fed = True
            try:
                answer = self.codec.feed(data) or answer
            except ValueError as error:
                raise self._lost(str(error)) from error
            if self.codec.control:
                control, self.codec.control = bytes(self.codec.control), bytearray()
                self._write(control)
            if not self._is_tls:
                # What is left in the kernel wakes the poller again; what OpenSSL has decrypted would not.
                return answer

    def close(self) -> None:
        """Close at once; what is in flight is lost."""
        self.socket.close()

    def _lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(reason, silent=not self._fed)

    def _write(self, data: bytes) -> bool:
        if self.unsent:
            data = self.unsent + data
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        except OSError:
            # `receive` sees the same broken connection, and says so once, in one place.
            sent = len(data)
        self.unsent = data[sent:]
        return not self.unsent


def connect(target: Target, codec: Callable[[], Codec], *, alpn: str, timeout_s: float) -> Connection:
    """Return a connection that has sent its codec's greeting. Raises TargetError when it cannot be made."""
    connected = target.connect(alpn=alpn, timeout_s=timeout_s)
    spoken = codec()
    greeting = spoken.greeting()
    if greeting:
        connected.send(greeting)
    return Connection(connected, spoken)
