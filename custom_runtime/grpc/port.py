"""Functions that gRPC's server lacks: stop accepting connections, and count the open ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

from grpc_channelz.v1 import channelz, channelz_pb2
from prometheus_client import Counter

# gRPC spreads the ages by a tenth to either side; then the last answers are on their way.
AGE_SPREAD, GOAWAY_WAIT_S = 1.1, 1.0
COUNTED = ("grpc.enable_channelz", 1)  # the server's option that enables the counts
TICK_S = 1.0
_STARTED = Counter(
    "serving_grpc_calls_started", "gRPC calls that arrived, with those cancelled unseen.", ("predictor",)
)
_ANSWERED = Counter("serving_grpc_calls_answered", "gRPC calls that ended with a status, good or bad.", ("predictor",))


def stop_accepting(port: int) -> None:
    """Stop listening on a TCP port: the kernel refuses new connections; accepted ones stay open."""
    for listening, connection in _sockets(port):
        if listening:
            connection.shutdown(socket.SHUT_RDWR)


def connections(port: int) -> int:
    """Return how many connections to a TCP port this process has open."""
    return sum(_has_peer(found) for _, found in _sockets(port))


def _has_peer(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:  # the listening socket itself: after shutdown it no longer listens, and gRPC keeps it open
        return False
    return True


def _sockets(port: int) -> Iterator[tuple[bool, socket.socket]]:
    """Yield this process's TCP sockets on a local port, and whether each one listens. They stay their owner's."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            found = socket.socket(fileno=int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            with contextlib.suppress(OSError):
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
                    yield bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)), found
        finally:
            found.detach()


class CallCounts:
    """What this process's gRPC servers have counted (channelz), carried over to the metrics."""

    def __init__(self, predictor: str) -> None:
        self._started_total = _STARTED.labels(predictor)
        self._answered_total = _ANSWERED.labels(predictor)
        self._started = self._answered = 0

    async def follow(self) -> None:
        """Carry the counts over once a second, and once more when it is cancelled."""
        try:
            while True:
                self.carry_over()
                await asyncio.sleep(TICK_S)
        finally:
            self.carry_over()

    def carry_over(self) -> None:
        """Add what came since the last time; costs half a millisecond."""
        servers = channelz.ChannelzServicer.GetServers(channelz_pb2.GetServersRequest(), None).server
        started = sum(server.data.calls_started for server in servers)
        answered = sum(server.data.calls_succeeded + server.data.calls_failed for server in servers)
        self._started_total.inc(started - self._started)
        self._answered_total.inc(answered - self._answered)
        self._started, self._answered = started, answered
