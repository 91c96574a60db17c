"""The TCP socket that REST listens on: its own, or one that a supervisor hands down."""

from __future__ import annotations

import os
import socket

BACKLOG = 2048
# Set by the supervisor: the file descriptor of a bound socket. It stays open there, so that the connections that
# wait on it outlive this process.
LISTEN_FD = "CHURN_LISTEN_FD"


def listener_socket(host: str, port: int) -> socket.socket:
    """Return the socket that REST listens on: the one that a supervisor handed down, or a new one. Raises OSError."""
    inherited = os.environ.get(LISTEN_FD)
    if inherited is not None:
        return socket.socket(fileno=int(inherited))
    return bound_socket(host, port, share=False)


def bound_socket(host: str, port: int, *, share: bool) -> socket.socket:
    """Return a bound TCP socket; share: others may bind the same port (SO_REUSEPORT). Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port} is not free: {error.strerror}") from error
    return listener
