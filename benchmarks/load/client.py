"""The load client: many connections and one thread that does all their input and output.

No task, no coroutine and no lock per request. `submit` puts requests into a queue, and wakes the thread only when it
sleeps, so that a busy client makes no system call for it. A second thread replaces broken connections.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event, Thread
from time import perf_counter, process_time

from benchmarks.errors import TargetError
from benchmarks.load.connection import (
    Codec,
    Connection,
    ConnectionLost,
    Done,
    PendingRequest,
    Reconnector,
    Wakeup,
    connect,
)
from benchmarks.load.target import Target

SWEEP_S = 0.05
REPORT_AT = 16  # LoadGen takes the time when a request is reported, so finished requests must not wait for a long poll


class Client:
    """`connections` sockets to one target. `on_done` is called from the polling thread, a few requests at a time."""

    def __init__(
        self,
        target: Target,
        codec: Callable[[], Codec],
        *,
        connections: int,
        timeout_s: float,
        on_done: Callable[[Sequence[Done]], None],
    ) -> None:
        self._connect = partial(connect, target, codec, timeout_s=timeout_s)
        self._count = connections
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._poller = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._free: deque[Connection] = deque()
        self._waiting: deque[PendingRequest] = deque()
        self._done: list[Done] = []
        self._wakeup = Wakeup()
        self._reconnector = Reconnector(self._connect, self._wakeup.wake)
        self._stop = Event()
        self._thread = Thread(target=self._run, name="load-poll")

    def open(self) -> None:
        """Connect everything and start. Raises TargetError when a connection fails."""
        self._poller.register(self._wakeup.fd, select.EPOLLIN)
        try:
            for _ in range(self._count):
                self._add(self._connect())
        except TargetError:
            self._release()
            raise
        self._thread.start()
        self._reconnector.start()

    def submit(self, response_ids: Sequence[int], indexes: Sequence[int]) -> None:
        """Send these requests now, or as soon as connections are free, in order. For any thread."""
        now = perf_counter()
        self._waiting.extend([PendingRequest(*pair, now) for pair in zip(response_ids, indexes, strict=True)])
        self._wakeup.wake()

    def busiest_cpu_s(self) -> float:
        """Return the CPU seconds of this process: it is the only one."""
        return process_time()

    def close(self) -> None:
        """Stop the threads and close every connection."""
        self._stop.set()
        self._wakeup.wake()
        self._thread.join()
        self._reconnector.close()
        self._release()

    def _run(self) -> None:
        wakeup, replacements = self._wakeup, self._reconnector.replacements
        next_sweep_s = perf_counter() + SWEEP_S
        while not self._stop.is_set():
            wakeup.sleeping = True  # before looking for work
            busy = replacements or (self._waiting and self._free)
            events = self._poller.poll(0 if busy else SWEEP_S)
            wakeup.sleeping = False
            for fd, mask in events:
                connection = self._by_fd.get(fd)
                if connection is not None:
                    self._serve(connection, mask)
                elif fd == wakeup.fd:
                    wakeup.clear()
            while replacements:
                self._add_replacement(replacements.popleft())
            while self._waiting and self._free:
                self._send(self._free.popleft(), self._waiting.popleft())
            if perf_counter() >= next_sweep_s:
                self._sweep()
                next_sweep_s = perf_counter() + SWEEP_S
            self._report_done()

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
        request = connection.request
        if answer is not None and request is not None:
            connection.request = None
            self._done.append(Done(request, perf_counter(), answer.error, answer.detail))
            if len(self._done) >= REPORT_AT:
                self._report_done()
        if connection.request is None and not connection.codec.reusable:
            self._lose(connection, "closed by the server", retry=False)
        elif answer is None or request is None:
            return
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def _send(self, connection: Connection, request: PendingRequest) -> None:
        if not connection.send(request):
            self._poller.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _lose(self, connection: Connection, reason: str, *, retry: bool) -> None:
        request = connection.request
        # A server may close an idle connection just as a request leaves for it; every HTTP client repeats that
        # request on another connection, once.
        if request is None:
            if connection in self._free:
                self._free.remove(connection)
        elif retry and not request.retried:
            request.retried = True
            self._waiting.appendleft(request)
        else:
            self._done.append(Done(request, perf_counter(), reason))
        self._poller.unregister(connection.socket)
        del self._by_fd[connection.socket.fileno()]
        connection.close()
        self._reconnector.replace()

    def _sweep(self) -> None:
        now = perf_counter()
        for connection in list(self._by_fd.values()):
            if connection.request is not None and now - connection.request.issued_s > self._timeout_s:
                self._lose(connection, "timeout", retry=False)
        while self._waiting and now - self._waiting[0].issued_s > self._timeout_s:
            self._done.append(Done(self._waiting.popleft(), now, "timeout"))

    def _report_done(self) -> None:
        if self._done:
            done, self._done = self._done, []
            self._on_done(done)

    def _add_replacement(self, replacement: Connection | TargetError) -> None:
        if isinstance(replacement, Connection):
            self._add(replacement)
        elif not self._by_fd:
            # No connection is left: waiting requests fail now, and not only after their timeout.
            now = perf_counter()
            while self._waiting:
                self._done.append(Done(self._waiting.popleft(), now, "no connection", str(replacement)))

    def _add(self, connection: Connection) -> None:
        self._by_fd[connection.socket.fileno()] = connection
        self._poller.register(connection.socket, select.EPOLLIN)
        self._free.append(connection)

    def _release(self) -> None:
        for connection in self._by_fd.values():
            connection.close()
        self._poller.close()
        self._wakeup.close()
