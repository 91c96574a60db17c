"""Free ports for one replica."""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

# Below Linux's range for outgoing connections (32768 and up): those would take a port between choosing and binding it.
FIRST, LAST = 15_000, 32_000
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one replica listens, all on 127.0.0.1."""

    http: int
    grpc: int
    metrics: int

    @classmethod
    def free(cls) -> Ports:
        """Choose three ports that nobody listens on."""
        http, grpc, metrics = (free_port() for _ in range(3))
        return cls(http, grpc, metrics)


def free_port() -> int:
    """Return a port that nobody listens on; two callers hardly ever get the same one."""
    while True:
        port = random.randint(FIRST, LAST)  # noqa: S311 -- spread, not secrecy
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
