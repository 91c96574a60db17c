"""Free ports of this machine, found in one place for the stand-in, the benchmarks, the image's proof and the tests."""

from __future__ import annotations

import os
import random
import socket
from collections import deque

HOST = "127.0.0.1"
# Below those that the kernel gives to whoever asks for any port (32768 and up): they would take a port between choosing
# and binding it.
FIRST, LAST = 10_000, 32_000
# Who is given a TCP port binds it seconds later. Until then its UDP twin, which nobody uses, keeps the other callers of
# this function off it, in other processes too; this many are kept, as files of this process.
KEPT = 64
_kept: deque[int] = deque()


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on, and that no other caller of this function was given just now."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(FIRST, LAST)  # noqa: S311 (spread, not secrecy)
        with socket.socket(type=socket.SOCK_DGRAM) as twin:
            try:
                twin.bind((HOST, port))
                socket.create_server((HOST, port)).close()
            except OSError:
                continue
            _kept.append(twin.detach())
        ports.append(port)
        if len(_kept) > KEPT:
            os.close(_kept.popleft())
    return ports
