"""The networked feature store: Redis with one MGET per batch, over TCP or TLS, one server or a cluster.

redis_table.py defines the keys and values, redis_link.py how a batch reaches the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from custom_runtime.errors import ContractMismatch, StoreError, StoreUnavailable
from custom_runtime.features.breaker import Breaker
from custom_runtime.features.redis_link import (
    CLUSTER_NODE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    MAX_CONNECTIONS,
    ClusterLink,
    Link,
    ServerLink,
    check_records,
)
from custom_runtime.features.redis_table import RedisTable, reason_of
from custom_runtime.features.store import FetchedRows, Keys, WrittenKeys, decode_records, without_credentials
from custom_runtime.model.encoding import Matrix

# For open, put and count; a fetch brings its own timeout.
COMMAND_TIMEOUT_S = 10.0


class RedisStore:
    """Features in Redis, for one contract. `redis+cluster://` and `rediss+cluster://` name any node of a cluster."""

    kind = "redis"

    def __init__(self, url: str, *, name: str, fingerprint: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url.replace("+cluster://", "://", 1)
        self._is_cluster = self._url != url
        self._name = name
        self._fingerprint = fingerprint
        # Messages never show the URL itself: it may hold a password. So may urllib's message for an invalid URL.
        self._label = without_credentials(url)
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise StoreError(f"feature store {self._label}: the port is not a number from 0 to 65535") from None
        self._breaker = Breaker(clock=clock)
        self._link: Link | None = None
        self.table = RedisTable(self._new_client, name=name, fingerprint=fingerprint, label=self._label)

    async def open(self) -> None:
        """See FeatureStore.open."""
        try:
            stored = await self.table.contracts()
        finally:
            await self.table.release()  # a fetch does not use this connection, and many processes share the server
        self._check_contract(stored)
        if self._link is not None:
            return
        link = self._new_link()
        try:
            await link.open()
        except Exception as error:
            await link.close()
            raise StoreError(f"feature store {self._label}: {reason_of(error)}") from error
        self._link = link

    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        """See FeatureStore.fetch. One attempt; the caller decides whether to retry."""
        if self._link is None:
            raise StoreUnavailable(f"feature store {self._label} is not open")
        if not keys:
            return decode_records([])
        if not self._breaker.admit():
            raise StoreUnavailable(f"feature store {self._label} is down; it is tried again within a second")
        try:
            async with asyncio.timeout(timeout_s):
                values = await self._link.mget(keys)
        except TimeoutError as error:
            self._breaker.fail()
            raise StoreUnavailable(f"feature store {self._label} gave no answer in {timeout_s * 1e3:g} ms") from error
        except Exception as error:  # a broken peer makes the client raise many kinds of errors; all mean unavailable
            self._breaker.fail()
            raise StoreUnavailable(f"feature store {self._label} cannot be read: {reason_of(error)}") from error
        # An invalid value is not a failure of Redis: that request fails, the breaker stays closed.
        self._breaker.succeed()
        return decode_records(check_records(values))

    async def put(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float) -> None:
        """See FeatureStore.put."""
        await self.table.write(keys, rows, updated_at=updated_at)
        await self.table.publish()

    async def count(self) -> int:
        """See FeatureStore.count. Scans all keys; while Redis resizes its table a key may be counted twice."""
        return await self.table.count()

    async def close(self) -> None:
        """See FeatureStore.close."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        await self.table.release()

    def _check_contract(self, stored: list[str]) -> None:
        load = f"load it: churn-serving features load --store {self._label}"
        if not stored:
            raise StoreError(f"feature store {self._label} holds no rows of {self._name!r}; {load}")
        if self._fingerprint not in stored:
            raise ContractMismatch(
                f"feature store {self._label} holds rows of {self._name!r} for contract {', '.join(stored)}; "
                f"this service has contract {self._fingerprint}; {load}"
            )

    def _new_link(self) -> Link:
        if self._is_cluster:
            return ClusterLink(partial(self._new_cluster, socket_timeout=CLUSTER_NODE_TIMEOUT_S), self.table.prefix)
        return ServerLink(
            self._new_pool(socket_timeout=None),
            self.table.prefix.encode(),
            contracts=self.table.contracts_key,
            fingerprint=self._fingerprint,
        )

    def _new_client(self) -> Redis | RedisCluster:
        if self._is_cluster:
            return self._new_cluster(socket_timeout=COMMAND_TIMEOUT_S)
        return Redis.from_pool(self._new_pool(socket_timeout=COMMAND_TIMEOUT_S))

    def _new_cluster(self, *, socket_timeout: float) -> RedisCluster:
        return RedisCluster.from_url(self._url, **_connection_options(socket_timeout))

    def _new_pool(self, *, socket_timeout: float | None) -> ConnectionPool:
        return ConnectionPool.from_url(self._url, **_connection_options(socket_timeout))


def _connection_options(socket_timeout_s: float | None) -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
        # RESP2: nothing here needs RESP3, whose handshake adds a round trip to each new connection.
        "protocol": 2,
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }


class RedisLoad:
    """One load into Redis, by upserts. The contract is published last: a first load opens only when complete."""

    def __init__(self, url: str, *, name: str, fingerprint: str) -> None:
        self._table = RedisStore(url, name=name, fingerprint=fingerprint).table
        self._job = ""

    async def begin(self, job: str) -> int:
        """See BulkLoad.begin."""
        self._job = job
        return await self._table.position(job)

    async def write(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float, position: int) -> None:
        """See BulkLoad.write. A load that is interrupted between the two commands writes the same rows again."""
        await self._table.write(keys, rows, updated_at=updated_at)
        await self._table.set_position(self._job, position)

    async def finish(self) -> None:
        """See BulkLoad.finish."""
        await self._table.publish()
        await self._table.set_position(self._job, None)

    async def close(self) -> None:
        """See BulkLoad.close."""
        await self._table.release()
