"""The load client: many connections and one thread that does all their input and output.

No task, no coroutine and no lock per request. Whoever issues a request puts it into a queue, and wakes the thread only
when that sleeps: a busy client spends no system call on it. Broken connections are replaced by a second thread, because
connecting blocks.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter

from benchmarks.codec import Codec
from benchmarks.connection import Connection, ConnectionLost, Ticket
from benchmarks.errors import TargetError
from benchmarks.target import Target

SWEEP_S = 0.05
RECONNECT_PAUSE_S = 0.1
REPORT_AT = 16  # LoadGen's clock stops when it is told: a long poll must not hold finished requests back


@dataclass(frozen=True, slots=True)
class Done:
    """One finished request; error is None, or the label it is counted under, with a detail for a person."""

    ticket: Ticket
    finished_s: float
    error: str | None
    detail: str = ""


class Client:
    """`connections` sockets to one target. `on_done` is called from the polling thread, a few requests at a time."""

    def __init__(
        self,
        target: Target,
        codec: Callable[[], Codec],
        *,
        alpn: str,
        connections: int,
        timeout_s: float,
        on_done: Callable[[Sequence[Done]], None],
    ) -> None:
        self._target = target
        self._codec = codec
        self._alpn = alpn
        self._count = connections
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._poller = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._free: deque[Connection] = deque()
        self._waiting: deque[Ticket] = deque()
        self._done: list[Done] = []
        self._doorbell = os.eventfd(0, os.EFD_NONBLOCK)
        self._sleeping = False
        self._broken: SimpleQueue[bool] = SimpleQueue()
        self._mended: deque[Connection | TargetError] = deque()
        self._stop = Event()
        self._threads = [Thread(target=self._run, name="load-poll"), Thread(target=self._mend, name="load-mend")]

    def open(self) -> None:
        """Connect everything and start. Raises TargetError when a connection fails."""
        self._poller.register(self._doorbell, select.EPOLLIN)
        try:
            for _ in range(self._count):
                self._add(self._connect())
        except TargetError:
            self._release()
            raise
        for thread in self._threads:
            thread.start()

    def submit(self, response_ids: Sequence[int], indexes: Sequence[int]) -> None:
        """Send these requests now, or as soon as connections are free, in order. For any thread."""
        now = perf_counter()
        self._waiting.extend([Ticket(*pair, now) for pair in zip(response_ids, indexes, strict=True)])
        self._ring()

    def close(self) -> None:
        """Stop the threads and close every connection."""
        self._stop.set()
        self._broken.put(False)
        self._ring()
        for thread in self._threads:
            thread.join()
        self._release()

    def _ring(self) -> None:
        if self._sleeping:
            self._sleeping = False
            os.eventfd_write(self._doorbell, 1)

    def _run(self) -> None:
        next_sweep_s = perf_counter() + SWEEP_S
        while not self._stop.is_set():
            # Set before looking: whoever adds after the look rings.
            self._sleeping = True
            busy = self._mended or (self._waiting and self._free)
            events = self._poller.poll(0 if busy else SWEEP_S)
            self._sleeping = False
            for fd, mask in events:
                connection = self._by_fd.get(fd)
                if connection is not None:
                    self._serve(connection, mask)
                elif fd == self._doorbell:
                    os.eventfd_read(self._doorbell)
            while self._mended:
                self._adopt(self._mended.popleft())
            while self._waiting and self._free:
                self._send(self._free.popleft(), self._waiting.popleft())
            if perf_counter() >= next_sweep_s:
                self._sweep()
                next_sweep_s = perf_counter() + SWEEP_S
            self._tell()

    def _serve(self, connection: Connection, mask: int) -> None:
        if mask & select.EPOLLOUT and connection.flush():
            self._poller.modify(connection.socket, select.EPOLLIN)
        if not mask & ~select.EPOLLOUT:
            return
        try:
            answer = connection.receive()
        except ConnectionLost as lost:
            self._lose(connection, str(lost), retry=lost.silent)
            return
        ticket = connection.ticket
        if answer is not None and ticket is not None:
            connection.ticket = None
            self._done.append(Done(ticket, perf_counter(), answer.error, answer.detail))
            if len(self._done) >= REPORT_AT:
                self._tell()
        if connection.ticket is None and not connection.codec.reusable:
            self._lose(connection, "closed by the server", retry=False)
        elif answer is None or ticket is None:
            return
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def _send(self, connection: Connection, ticket: Ticket) -> None:
        if not connection.send(ticket):
            self._poller.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _lose(self, connection: Connection, reason: str, *, retry: bool) -> None:
        ticket = connection.ticket
        # A server may close an idle connection just as a request leaves for it; every HTTP client repeats that
        # request on another connection, once.
        if ticket is None:
            if connection in self._free:
                self._free.remove(connection)
        elif retry and not ticket.retried:
            ticket.retried = True
            self._waiting.appendleft(ticket)
        else:
            self._done.append(Done(ticket, perf_counter(), reason))
        self._poller.unregister(connection.socket)
        del self._by_fd[connection.socket.fileno()]
        connection.close()
        self._broken.put(True)

    def _sweep(self) -> None:
        now = perf_counter()
        for connection in list(self._by_fd.values()):
            if connection.ticket is not None and now - connection.ticket.issued_s > self._timeout_s:
                self._lose(connection, "timeout", retry=False)
        while self._waiting and now - self._waiting[0].issued_s > self._timeout_s:
            self._done.append(Done(self._waiting.popleft(), now, "timeout"))

    def _tell(self) -> None:
        if self._done:
            done, self._done = self._done, []
            self._on_done(done)

    def _adopt(self, mended: Connection | TargetError) -> None:
        if isinstance(mended, Connection):
            self._add(mended)
        elif not self._by_fd:
            # Nobody is left to answer: what waits fails now, and not only when its time is over.
            now = perf_counter()
            while self._waiting:
                self._done.append(Done(self._waiting.popleft(), now, "no connection", str(mended)))

    def _mend(self) -> None:
        while self._broken.get():
            while not self._stop.is_set():
                try:
                    self._mended.append(self._connect())
                except TargetError as error:
                    self._mended.append(error)
                    self._ring()
                    self._stop.wait(RECONNECT_PAUSE_S)
                    continue
                self._ring()
                break

    def _connect(self) -> Connection:
        connected = self._target.connect(alpn=self._alpn, timeout_s=self._timeout_s)
        codec = self._codec()
        greeting = codec.greeting()
        if greeting:
            connected.send(greeting)
        return Connection(connected, codec)

    def _add(self, connection: Connection) -> None:
        self._by_fd[connection.socket.fileno()] = connection
        self._poller.register(connection.socket, select.EPOLLIN)
        self._free.append(connection)

    def _release(self) -> None:
        mended = [connection for connection in self._mended if isinstance(connection, Connection)]
        for connection in [*self._by_fd.values(), *mended]:
            connection.close()
        self._poller.close()
        os.close(self._doorbell)
