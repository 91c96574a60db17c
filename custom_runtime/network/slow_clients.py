"""Closes connections whose request does not arrive: slowloris, port scanners, peers that disappeared.

uvicorn limits the time between two requests, but not the time within a request's headers. All connections are checked
once a second instead of when bytes arrive, so the check costs a request nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Closable(Protocol):
    """The part of a transport that is used here."""

    def close(self) -> None:
        """Close the connection."""


class Cycle(Protocol):
    """One request and its answer."""

    response_complete: bool


class Connection(Protocol):
    """The attributes of uvicorn's HTTP protocol objects; scope and cycle are None until the first request."""

    transport: Closable
    scope: object | None
    cycle: Cycle | None
    timeout_keep_alive_task: object | None  # set while uvicorn itself bounds the wait for the next request


class SlowClients:
    """Closes a connection that sends no complete request head for `headers_s`, or nothing at all for `idle_s`."""

    def __init__(self, *, headers_s: float, idle_s: float) -> None:
        self._headers_s = headers_s
        self._idle_s = idle_s
        # Connection -> the last request that it completed, and when that state was first seen.
        self._waiting: dict[Connection, tuple[Cycle | None, float]] = {}

    def sweep(self, connections: Iterable[Connection], now_s: float) -> None:
        """Check all open connections. A connection is closed after its limit, at most one sweep later."""
        waiting: dict[Connection, tuple[Cycle | None, float]] = {}
        for connection in connections:
            cycle = connection.cycle
            if connection.timeout_keep_alive_task is not None or not (cycle is None or cycle.response_complete):
                continue
            seen, since_s = self._waiting.get(connection, (cycle, now_s))
            if seen is not cycle:
                since_s = now_s
            if now_s - since_s > (self._idle_s if connection.scope is None else self._headers_s):
                connection.transport.close()
            else:
                waiting[connection] = (cycle, since_s)
        self._waiting = waiting
