"""Replaces the load client's broken connections, in a thread of its own, because connecting blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread

from benchmarks.connection import Connection
from benchmarks.errors import TargetError

RECONNECT_PAUSE_S = 0.1


class Mender:
    """One new connection in `mended` for each that was broken, or why there is none yet; `on_mended` tells of both."""

    def __init__(self, connect: Callable[[], Connection], on_mended: Callable[[], None]) -> None:
        self.mended: deque[Connection | TargetError] = deque()
        self._connect = connect
        self._on_mended = on_mended
        self._broken: SimpleQueue[bool] = SimpleQueue()
        self._stop = Event()
        self._thread = Thread(target=self._run, name="load-mend")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def replace(self) -> None:
        """Ask for one connection more."""
        self._broken.put(True)

    def close(self) -> None:
        """Stop the thread, and close what nobody took."""
        self._stop.set()
        self._broken.put(False)
        self._thread.join()
        for connection in self.mended:
            if isinstance(connection, Connection):
                connection.close()

    def _run(self) -> None:
        while self._broken.get():
            while not self._stop.is_set():
                try:
                    self.mended.append(self._connect())
                except TargetError as error:
                    self.mended.append(error)
                    self._on_mended()
                    self._stop.wait(RECONNECT_PAUSE_S)
                    continue
                self._on_mended()
                break
