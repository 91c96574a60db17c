"""The listener of our own gRPC engine: its port, its connections, its end."""

from __future__ import annotations

import asyncio
import contextlib
import time

from custom_runtime.grpc.http2_engine import Http2Connection
from custom_runtime.grpc.method import MethodTable
from custom_runtime.network.sockets import BACKLOG, bound_socket, is_inherited, refuse_handshakes
from custom_runtime.network.tls import read_certificates
from custom_runtime.network.tokens import read_tokens
from custom_runtime.settings import ServingSettings

SWEEP_S = 0.1
METADATA_BYTES = 16_384
TLS_HANDSHAKE_S = 10.0
# Connections that the kernel has made and nobody has accepted yet.
LAST_CONNECTIONS_S = 0.25
# A stream that is open may send for this long after the ports have closed: its client learns of the end by then.
LAST_MESSAGES_S = 2.0


class ByteBudget:
    """Bytes that may be held for clients: messages that are not whole, answers that are not read."""

    def __init__(self, limit_bytes: int) -> None:
        self.free = limit_bytes

    def take(self, size: int) -> bool:
        """Take bytes, unless there are too few."""
        if size > self.free:
            return False
        self.free -= size
        return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        self.free += size


class Server:
    """What the connections of one port share."""

    def __init__(self, methods: MethodTable, serving: ServingSettings) -> None:
        self.methods = {path.encode(): method for path, method in methods.by_path.items()}
        self.tokens = read_tokens(serving)
        self.limit_bytes = serving.max_body_bytes
        self.metadata_bytes = METADATA_BYTES
        self.deadline_s = serving.deadline_ms / 1000
        self.budget = ByteBudget(serving.max_bodies_bytes)
        self.connections: set[Http2Connection] = set()
        self._max_connections = serving.max_connections
        self._dirty: list[Http2Connection] = []

    def add(self, connection: Http2Connection) -> bool:
        """Take a connection, unless there are too many."""
        if len(self.connections) >= self._max_connections:
            return False
        self.connections.add(connection)
        return True

    def remove(self, connection: Http2Connection) -> None:
        """Forget a connection that is closed."""
        self.connections.discard(connection)

    def flush_soon(self, connection: Http2Connection) -> None:
        """Write for a connection when this turn of the event loop is over: one write for all answers of a batch."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    async def sweep(self) -> None:
        """Look at every connection ten times a second, until cancelled: a call pays for no timer of its own."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.sweep(now, now - last)
            last = now


class Http2Listener:
    """Serves the method table on MLServer's gRPC port."""

    def __init__(self, host: str, port: int, methods: MethodTable, serving: ServingSettings) -> None:
        self._host, self._port = host, port
        self._certificates = read_certificates(serving)
        self._methods = methods
        self.server = Server(methods, serving)
        self._grace_s = serving.deadline_ms / 1000 + 1
        self._stopped = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Serve until stop(). Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._socket = bound_socket(self._host, self._port, share=is_inherited())
        tls = self._certificates.for_http2() if self._certificates else None
        self._listener = await loop.create_server(
            lambda: Http2Connection(self.server),
            sock=self._socket,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=TLS_HANDSHAKE_S if tls else None,
        )
        sweeping = loop.create_task(self.server.sweep())
        self.started.set()
        try:
            await self._stopped.wait()
        finally:
            sweeping.cancel()
            self._listener.close()
            for connection in list(self.server.connections):
                connection.abort()
            self._methods.close()

    async def wait_for_clients(self) -> None:
        """Accept no new connection, ask all clients to leave, and wait until the last call is answered."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._see_off())
        await self._closing

    async def stop(self, sig: int | None = None) -> None:
        """End as wait_for_clients() does, unless that was done, and then at once."""
        if self.started.is_set():
            await self.wait_for_clients()
        self._stopped.set()

    async def _see_off(self) -> None:
        server = self.server
        self._methods.close_streams()
        refuse_handshakes(self._socket)
        await asyncio.sleep(LAST_CONNECTIONS_S)
        self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s + LAST_CONNECTIONS_S):
                loop = asyncio.get_running_loop()
                last_message_at = loop.time() + LAST_MESSAGES_S
                while server.connections:
                    for connection in list(server.connections):
                        connection.drain(end_streams=loop.time() > last_message_at)
                    await asyncio.sleep(SWEEP_S / 10)
