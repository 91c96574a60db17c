"""Selects free ports of this machine, for local_seldon, the benchmarks, the image's test and the tests."""

from __future__ import annotations

import os
import random
import socket
from collections import deque

HOST = "127.0.0.1"
# Below the kernel's ephemeral ports (32768 and up), which could be taken between the selection and the bind.
FIRST, LAST = 10_000, 32_000
# Who is given a TCP port binds it seconds later. Until then its UDP twin, which nobody uses, keeps the other callers of
# this function off it, in other processes too; this many are kept, as files of this process.
KEPT = 64
_kept: deque[int] = deque()


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nothing listens on and that no other caller of this function has just received."""
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
