"""One serving process below the supervisor: how it is started, and how it tells that it serves."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from custom_runtime.process import READY_FD
from custom_runtime.server import METRICS_DIRECTORY
from custom_runtime.sockets import LISTEN_FD


@dataclass(slots=True)
class Worker:
    """One serving process and the socket that it was given."""

    process: asyncio.subprocess.Process
    listener: socket.socket
    ready: asyncio.Future[bool]
    started_at: float


async def start_worker(command: Sequence[str], listener: socket.socket, *, metrics: str) -> Worker:
    """Start a process of `command` on this listener; its metrics go to the directory `metrics`."""
    read_fd, write_fd = os.pipe()
    environment = os.environ | {
        LISTEN_FD: str(listener.fileno()),
        READY_FD: str(write_fd),
        METRICS_DIRECTORY: metrics,
    }
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, pass_fds=(listener.fileno(), write_fd), start_new_session=True
    )
    os.close(write_fd)
    loop = asyncio.get_running_loop()
    worker = Worker(process, listener, loop.create_future(), loop.time())
    # The pipe tells "ready" by a byte and "died before that" by its end.
    loop.add_reader(read_fd, _note_readiness, read_fd, worker.ready)
    return worker


def _note_readiness(read_fd: int, ready: asyncio.Future[bool]) -> None:
    asyncio.get_running_loop().remove_reader(read_fd)
    said = os.read(read_fd, 16)
    os.close(read_fd)
    if not ready.done():
        ready.set_result(bool(said))
