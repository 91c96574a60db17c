"""The supervisor's workers: how one is started, how it reports readiness, and the metrics endpoint for all of them.

Workers write their metrics to memory-mapped files (prometheus_client's multiprocess mode), which outlive the workers;
the endpoint returns the sum.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from mlserver.settings import Settings
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from custom_runtime.network.sockets import LISTEN_FD
from custom_runtime.server.process import READY_FD
from custom_runtime.server.server import METRICS_DIRECTORY


@dataclass(slots=True)
class Worker:
    """One serving process. ready: ends with whether it began to serve; ready_at: when, by the event loop's clock."""

    process: asyncio.subprocess.Process
    ready: asyncio.Future[bool]
    ready_at: float | None = None

    def served_s(self) -> float:
        """Return for how long it has served; 0 before it is ready."""
        return 0.0 if self.ready_at is None else asyncio.get_running_loop().time() - self.ready_at


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
    worker = Worker(process, loop.create_future())
    # A byte in the pipe means "ready"; its end without a byte means that the worker died first.
    loop.add_reader(read_fd, _note_readiness, read_fd, worker)
    return worker


def _note_readiness(read_fd: int, worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    loop.remove_reader(read_fd)
    received = os.read(read_fd, 16)
    os.close(read_fd)
    if received:
        worker.ready_at = loop.time()
    if not worker.ready.done():
        worker.ready.set_result(bool(received))


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def serve_metrics(settings: Settings, metrics: str) -> WSGIServer:
    """Serve the sum of what the workers wrote to `metrics`, on a thread, until `shutdown`. Raises OSError."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=metrics)  # type: ignore[no-untyped-call]
    try:
        server = make_server(
            settings.host, settings.metrics_port, make_wsgi_app(registry), _ThreadedServer, _SilentHandler
        )
    except OSError as error:
        raise OSError(error.errno, f"port {settings.metrics_port} is not free: {error.strerror}") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
