"""One connection of the load client: a non-blocking socket, a codec, and at most one request in flight.

`Codec` is the protocol's port: bytes of a request out, one answer in. `Reconnector` replaces broken connections in a
thread of its own, because connecting blocks. `Wakeup` wakes the polling thread, with a system call only when it sleeps.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import Protocol

from benchmarks.errors import TargetError
from benchmarks.load.target import Target

RECEIVE_BYTES = 65_536
RECONNECT_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of one request. error: None for a good answer, else a short label to count it under."""

    error: str | None
    detail: str = ""


GOOD = Answer(None)


class Codec(Protocol):
    """The state of one connection."""

    reusable: bool  # False: the server wants the connection closed after this answer

    def request(self, index: int) -> bytes:
        """Return the bytes of request number `index`."""

    def feed(self, data: bytes) -> Answer | None:
        """Parse received bytes; return the answer when it is complete. Raises ValueError for another protocol."""


@dataclass(slots=True)
class PendingRequest:
    """One request on its way. Times are seconds of time.perf_counter."""

    response_id: int  # LoadGen's
    index: int
    issued_s: float
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """One finished request; error is None, or the label it is counted under, with a detail for a person."""

    request: PendingRequest
    finished_s: float
    error: str | None
    detail: str = ""


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
        self.request: PendingRequest | None = None
        self.unsent = b""
        self._fed = False
        self._is_tls = isinstance(connected, ssl.SSLSocket)

    def send(self, request: PendingRequest) -> bool:
        """Start a request; return whether all of it was taken (else call `flush` when the socket is writable)."""
        self.request = request
        self._fed = False
        return self._write(self.codec.request(request.index))

    def flush(self) -> bool:
        """Send what was left over; return whether all is sent."""
        return self._write(b"")

    def receive(self) -> Answer | None:
        """Read and parse what has arrived; return the answer when it is complete. Raises ConnectionLost."""
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
            if not self._is_tls:
                # Bytes left in the kernel wake the poller again; bytes that OpenSSL has already decrypted do not.
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
            # `receive` finds the same broken connection, and reports it.
            sent = len(data)
        self.unsent = data[sent:]
        return not self.unsent


def connect(target: Target, codec: Callable[[], Codec], *, timeout_s: float) -> Connection:
    """Return a new connection. Raises TargetError when it cannot be made."""
    return Connection(target.connect(timeout_s=timeout_s), codec())


class Reconnector:
    """Puts new connections, or the errors of attempts, into `replacements`; calls `on_replacement` for each."""

    def __init__(self, connect: Callable[[], Connection], on_replacement: Callable[[], None]) -> None:
        self.replacements: deque[Connection | TargetError] = deque()
        self._connect = connect
        self._on_replacement = on_replacement
        self._broken: SimpleQueue[bool] = SimpleQueue()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="load-reconnect")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def replace(self) -> None:
        """Request one new connection."""
        self._broken.put(True)

    def close(self) -> None:
        """Stop the thread, and close connections that were not used."""
        self._stop.set()
        self._broken.put(False)
        self._thread.join()
        for connection in self.replacements:
            if isinstance(connection, Connection):
                connection.close()

    def _run(self) -> None:
        while self._broken.get():
            while not self._stop.is_set():
                try:
                    self.replacements.append(self._connect())
                except TargetError as error:
                    self.replacements.append(error)
                    self._on_replacement()
                    self._stop.wait(RECONNECT_PAUSE_S)
                    continue
                self._on_replacement()
                break


class Wakeup:
    """An eventfd. The polling thread sets `sleeping` before it checks for work, so that work added later wakes it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.sleeping = False

    def wake(self) -> None:
        """Wake the polling thread."""
        if self.sleeping:
            self.sleeping = False
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Reset `fd`, so that it is not readable until the next wake."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Free the descriptor."""
        os.close(self.fd)
