"""What gRPC's server does not offer: to accept no more connections, and to know how many are left."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

# gRPC spreads the ages by a tenth to either side; then the last answers are on their way.
AGE_SPREAD, GOODBYE_S = 1.1, 1.0


def stop_accepting(port: int) -> None:
    """Stop listening on a TCP port: the kernel refuses new connections, those that were accepted live on."""
    for listening, connection in _sockets(port):
        if listening:
            connection.shutdown(socket.SHUT_RDWR)


def connections(port: int) -> int:
    """Return how many connections to a TCP port this process has open."""
    return sum(_has_peer(found) for _, found in _sockets(port))


def _has_peer(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:  # the door itself: shut, it does not listen, and gRPC keeps it open
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
