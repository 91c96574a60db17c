"""The TCP socket that REST listens on: created by this process, or inherited from a supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct

BACKLOG = 2048
# Set by the supervisor: the file descriptor of a bound socket. The supervisor keeps it open, so that connections in its
# queue are not lost when this process ends.
LISTEN_FD = "SERVING_LISTEN_FD"

_SO_ATTACH_FILTER = 26  # linux/asm-generic/socket.h
# A classic BPF program of (code, jump if true, jump if false, operand): a segment with the flag SYN, in byte 13 of the
# TCP header, is dropped; every other passes.
_NO_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)


def is_inherited() -> bool:
    """Return whether the listening socket comes from a supervisor, whose other workers keep using it."""
    return LISTEN_FD in os.environ


def listener_socket(host: str, port: int) -> socket.socket:
    """Return the socket that REST listens on: the supervisor's, or a new one. Raises OSError."""
    inherited = os.environ.get(LISTEN_FD)
    if inherited is not None:
        return socket.socket(fileno=int(inherited))
    return bound_socket(host, port, share=False)


def bound_socket(host: str, port: int, *, share: bool) -> socket.socket:
    """Return a bound TCP socket; share: other sockets may bind the same port (SO_REUSEPORT). Raises OSError."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"port {port} is not free: {error.strerror}") from error
    except OverflowError as error:
        listener.close()
        raise OSError(errno.EINVAL, f"port {port} is not a port; allowed: 0 to 65535") from error
    return listener


def refuse_handshakes(listener: socket.socket) -> None:
    """Accept no new connections, and keep those in the queue. Linux only; without socket filters it does nothing.

    Closing or shutting down a listening socket resets the connections in its queue, whose clients may already have sent
    a request. A socket filter drops SYN segments instead, so that the whole queue can be accepted. Clients retry the
    connection for a second, and are refused once the socket is closed.
    """
    program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
    filters = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(program))
    with contextlib.suppress(OSError):  # for example in a sandbox: connections are then reset as without the filter
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filters)
