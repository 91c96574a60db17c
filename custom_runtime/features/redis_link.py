"""How one batch reaches Redis: one MGET over a pooled connection to a server, or through the cluster client.

`Link` is the port, `ServerLink` and `ClusterLink` implement it. Both connect in a task of their own (`ConnectAttempt`)
that outlives the request that started it: a TLS handshake or reading a cluster's topology may take longer than a
request may wait, and then the next request finds the connection ready.

`pack_mget` builds the command, because redis-py packs keys one by one: 130 us of CPU for 128 keys, 55 us here.
`check_reply` and `check_records` verify what came back.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster
from redis.exceptions import RedisError

from custom_runtime.errors import StoreUnavailable
from custom_runtime.features.store import RECORD_BYTES, Keys

CONNECT_TIMEOUT_S = 1.0
# Reads the whole topology and the table of commands (200 kB).
CLUSTER_CONNECT_TIMEOUT_S = 5.0
# For each reply of a node while the topology is read. A node that hangs may be asked first: the next one must be asked
# soon, or the topology of a healthy cluster is not read for CLUSTER_CONNECT_TIMEOUT_S.
CLUSTER_NODE_TIMEOUT_S = 0.5
# The coalescer has one fetch in flight; slices of big batches are fetched at the same time.
MAX_CONNECTIONS = 4


class Link(Protocol):
    """One MGET per call, bounded by the caller's timeout. Any exception means that the store is unavailable."""

    async def open(self) -> None:
        """Connect, so that the first request finds a connection."""

    async def mget(self, keys: Keys) -> list[Any]:
        """Return one value or None per id."""

    async def close(self) -> None:
        """Release connections."""


class ServerLink:
    """Idle connections to one server, used last in first out; each carries one command at a time.

    Uses redis-py's connection objects directly, not its client and pool: 20 us of CPU for one key instead of 70,
    because the client's work around a command (pool lock, retry closure, two timeouts, telemetry hooks) is left out.
    """

    def __init__(self, pool: ConnectionPool, prefix: bytes, *, contracts: str, fingerprint: str) -> None:
        """Read keys of this prefix, only from servers whose set `contracts` has this fingerprint."""
        self._pool = pool
        self._prefix = prefix
        self._contracts = contracts
        self._fingerprint = fingerprint
        self._idle: list[Connection] = []
        self._closed = False
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._connect_attempt = ConnectAttempt(self._connect, timeout_s=CONNECT_TIMEOUT_S)

    async def open(self) -> None:
        """See Link.open."""
        await self._connect_attempt.wait()

    async def mget(self, keys: Keys) -> list[Any]:
        """See Link.mget."""
        async with self._slots:
            connection = await self._acquire()
            try:
                # No health check and no second timeout: the caller's timeout bounds all of this.
                await connection.send_packed_command(pack_mget(self._prefix, keys), check_health=False)
                reply = await connection.read_response(timeout=math.inf)
                values = check_reply(reply, count=len(keys))
            except BaseException:
                # Also when cancelled: the reply may still arrive, and the next request must not read it.
                await connection.disconnect(nowait=True)
                # Connect now, for the next request: where connecting and the command together take longer than a
                # request may wait, a connection that is made on demand would always be too late.
                if not (self._idle or self._closed):
                    self._connect_attempt.start()
                raise
            if self._closed:
                await connection.disconnect(nowait=True)
            else:
                self._idle.append(connection)
            return values

    async def close(self) -> None:
        """See Link.close."""
        self._closed = True
        await self._connect_attempt.cancel()
        while self._idle:
            # Waits at most a second for the TLS shutdown; an error in it has no effect any more.
            with suppress(Exception):
                await self._idle.pop().disconnect()

    async def _acquire(self) -> Connection:
        while True:
            while self._idle:
                connection = self._idle.pop()
                # Readable without a command: the server has closed it (a restart), or sent unexpected data.
                if connection.is_connected and not await connection.can_read():
                    return connection
                await connection.disconnect(nowait=True)
            await self._connect_attempt.wait()

    async def _connect(self) -> None:
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            # After a failover or a restart the server may be empty: every key would be unknown.
            await connection.send_command("SISMEMBER", self._contracts, self._fingerprint, check_health=False)
            if await connection.read_response() != 1:
                raise StoreUnavailable("the server holds no rows for this service's contract; load the features again")
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)


@dataclass(slots=True)
class _SharedClient:
    """A cluster client and how many requests read with it; a retired one is closed when its last reader has left."""

    client: RedisCluster
    readers: int = 0
    retired: bool = False


class ClusterLink:
    """The cluster client: one MGET per hash slot, pipelined to each node.

    After a failure the topology is read again by a new client; requests under way keep the client that they began with.
    """

    def __init__(self, new_client: Callable[[], RedisCluster], prefix: str) -> None:
        self._new_client = new_client
        self._prefix = prefix
        self._shared: _SharedClient | None = None
        self._ready = False
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._connect_attempt = ConnectAttempt(self._connect, timeout_s=CLUSTER_CONNECT_TIMEOUT_S)

    async def open(self) -> None:
        """See Link.open."""
        await self._connect_attempt.wait()

    async def mget(self, keys: Keys) -> list[Any]:
        """See Link.mget."""
        keys = [f"{self._prefix}{key}" for key in keys]
        async with self._slots:
            if not self._ready or self._shared is None:
                await self._connect_attempt.wait()
            shared = self._shared
            assert shared is not None  # noqa: S101 (the attempt has succeeded)
            shared.readers += 1
            try:
                return check_reply(await shared.client.mget_nonatomic(keys), count=len(keys))
            except BaseException:
                if shared is self._shared:
                    self._ready = False  # a node may be gone: read the topology again now, for the next request
                    if not self._closed:
                        self._connect_attempt.start()
                raise
            finally:
                shared.readers -= 1
                self._close_unused(shared)

    async def close(self) -> None:
        """See Link.close."""
        self._closed = True
        await self._connect_attempt.cancel()
        if self._shared is not None:
            await close_client(self._shared.client)
        await asyncio.gather(*self._closing)

    async def _connect(self) -> None:
        client = self._new_client()
        try:
            await client.initialize()
        except BaseException:
            await close_client(client)
            raise
        old, self._shared, self._ready = self._shared, _SharedClient(client), True
        if old is not None:
            old.retired = True
            self._close_unused(old)

    def _close_unused(self, shared: _SharedClient) -> None:
        if shared.retired and not shared.readers:  # in a task: over TLS a node that hangs makes this wait
            closing = asyncio.create_task(close_client(shared.client))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def close_client(client: Redis | RedisCluster) -> None:
    """Close all connections of a client, in whatever state it is. A node that does not take leave is no error.

    A cluster client's own `aclose` does nothing while it means to read the topology again, as after each connection
    that it lost: its connections to all other nodes would stay open until the garbage collector finds them.
    """
    with suppress(RedisError):
        await client.aclose()
    if isinstance(client, RedisCluster):
        for nodes in ("nodes_cache", "startup_nodes"):
            with suppress(RedisError):
                await client.nodes_manager.aclose(nodes)


class ConnectAttempt:
    """One attempt to connect at a time, shared by all waiting requests; a request that times out does not end it."""

    def __init__(self, connect: Callable[[], Awaitable[None]], *, timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Return the running attempt; start one when there is none."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._attempt())
            self._task.add_done_callback(_ignore_result)
        return self._task

    async def wait(self) -> None:
        """Wait for the running attempt, and start one when there is none. Raises what the attempt raises."""
        await asyncio.shield(self.start())

    async def cancel(self) -> None:
        """End the running attempt."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def _attempt(self) -> None:
        async with asyncio.timeout(self._timeout_s):
            await self._connect()


def _ignore_result(task: asyncio.Task[None]) -> None:
    # No request may be waiting any more; asyncio would then log the exception as never retrieved.
    if not task.cancelled():
        task.exception()


def pack_mget(prefix: bytes, keys: Keys) -> bytes:
    """Return MGET of `<prefix><key>` for each key in RESP, the wire format of Redis."""
    # Any: hiredis' stub takes a pair only.
    command: Any
    if isinstance(keys[0], str):
        command = (b"MGET", *(prefix + key.encode() for key in cast("Sequence[str]", keys)))
    else:
        command = (b"MGET", *(b"%b%d" % (prefix, key) for key in cast("Sequence[int]", keys)))
    packed: bytes = hiredis.pack_command(command)
    return packed


def check_reply(reply: Any, *, count: int) -> list[Any]:
    """Return the reply when it has one value for each of `count` keys. Raises StoreUnavailable otherwise."""
    if isinstance(reply, list) and len(reply) == count:
        return reply
    received = f"{len(reply)} values" if isinstance(reply, list) else type(reply).__name__
    raise StoreUnavailable(f"the reply to MGET is {received}; expected {count} values")


def check_records(values: list[Any]) -> list[bytes | None]:
    """Return the values when each is a record or None. Raises StoreUnavailable naming the first that is not."""
    for value in values:
        if value is not None and (type(value) is not bytes or len(value) != RECORD_BYTES):
            received = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
            raise StoreUnavailable(
                f"a stored value is {received}; expected {RECORD_BYTES} bytes; load the features again"
            )
    return values
