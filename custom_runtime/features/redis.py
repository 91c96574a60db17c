"""The networked feature store: Redis, one MGET per batch; also TLS and cluster.

A value is a record (store.py) under `<name>:<fingerprint>:<customer_id>`. `<name>:contract` is the set of fingerprints
that are loaded: the rows of two contracts live side by side, so that during a canary with a new feature the pods of
the old contract still start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from custom_runtime.encoding import Matrix
from custom_runtime.errors import ContractMismatch, StoreError, StoreUnavailable
from custom_runtime.features.breaker import Breaker
from custom_runtime.features.opening import without_credentials
from custom_runtime.features.redis_link import (
    CLUSTER_NODE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    MAX_CONNECTIONS,
    ClusterLink,
    Link,
    ServerLink,
)
from custom_runtime.features.redis_wire import check_records
from custom_runtime.features.store import FetchedRows, WrittenIds, decode_records, encode_records

# For open, put and count; a fetch brings its own timeout.
COMMAND_TIMEOUT_S = 10.0
# Keys of one MSET: ~1 ms during which Redis serves nobody else.
WRITE_ROWS = 1_000


class RedisStore:
    """Features in Redis, for one contract. `redis+cluster://` and `rediss+cluster://` name any node of a cluster."""

    kind = "redis"

    def __init__(self, url: str, *, name: str, fingerprint: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url.replace("+cluster://", "://", 1)
        self._is_cluster = self._url != url
        self._name = name
        self._fingerprint = fingerprint
        self._prefix = f"{name}:{fingerprint}:"
        self._contracts = f"{name}:contract"
        # Never the URL itself: it may hold a password, and so may what urllib says of a bad one.
        self._label = without_credentials(url)
        try:
            _ = urlsplit(url).port
        except ValueError:
            raise StoreError(f"feature store {self._label}: the port is no number from 0 to 65535") from None
        self._breaker = Breaker(clock=clock)
        self._link: Link | None = None
        self._client: Redis | RedisCluster | None = None

    async def open(self) -> None:
        """See FeatureStore.open."""
        try:
            stored = await self._command(lambda client: client.smembers(self._contracts))
        finally:
            await self._release()  # many processes, few connections: what a fetch does not use is not held
        self._check_contract(sorted(fingerprint.decode(errors="replace") for fingerprint in stored))
        if self._link is not None:
            return
        link = self._new_link()
        try:
            await link.open()
        except Exception as error:
            await link.close()
            raise StoreError(f"feature store {self._label}: {_said(error)}") from error
        self._link = link

    async def fetch(self, customer_ids: Sequence[int], *, timeout_s: float) -> FetchedRows:
        """See FeatureStore.fetch. One try: whether to ask again is the caller's to decide."""
        if self._link is None:
            raise StoreUnavailable(f"feature store {self._label} is not open")
        if not customer_ids:
            return decode_records([])
        if not self._breaker.admit():
            raise StoreUnavailable(f"feature store {self._label} is down; it is tried again within a second")
        try:
            async with asyncio.timeout(timeout_s):
                values = await self._link.mget(customer_ids)
        except TimeoutError as error:
            self._breaker.fail()
            raise StoreUnavailable(f"feature store {self._label} gave no answer in {timeout_s * 1e3:g} ms") from error
        except Exception as error:  # whatever a broken peer makes the client raise is the same outcome
            self._breaker.fail()
            raise StoreUnavailable(f"feature store {self._label} cannot be read: {_said(error)}") from error
        # Redis is well even where one customer's value is not: that one fails, the breaker stays closed.
        self._breaker.succeed()
        return decode_records(check_records(values))

    async def put(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float) -> None:
        """See FeatureStore.put."""
        await self.write(customer_ids, rows, updated_at=updated_at)
        await self.publish()

    async def write(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float) -> None:
        """Write rows, and say nothing yet of their contract: a store that is half loaded does not open."""
        ids = np.asarray(customer_ids, dtype=np.int64).tolist()
        records = encode_records(rows, updated_at=updated_at)
        for start in range(0, len(ids), WRITE_ROWS):
            part = slice(start, start + WRITE_ROWS)
            values = {f"{self._prefix}{key}": record for key, record in zip(ids[part], records[part], strict=True)}
            await self._command(partial(_set_all, values=values))

    async def publish(self) -> None:
        """Add this contract to those that are loaded."""
        await self._command(lambda client: client.sadd(self._contracts, self._fingerprint))

    async def position(self, job: str) -> int:
        """Return how many rows an interrupted load of `job` has written."""
        stored = await self._command(lambda client: client.get(self._job_key(job)))
        return int(stored or 0)

    async def set_position(self, job: str, position: int | None) -> None:
        """Remember how many rows of `job` are written; None: the job is over."""
        key = self._job_key(job)
        await self._command(lambda client: client.delete(key) if position is None else client.set(key, position))

    async def count(self) -> int:
        """See FeatureStore.count. Scans all keys; while Redis resizes its table a key may be counted twice."""

        async def scan(client: Any) -> int:
            total = 0
            async for _ in client.scan_iter(match=f"{self._prefix}*", count=5_000):
                total += 1
            return total

        return int(await self._command(scan))

    async def close(self) -> None:
        """See FeatureStore.close."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        await self._release()

    def _check_contract(self, stored: list[str]) -> None:
        load = f"load it: python scripts/load_features.py --store {self._label}"
        if not stored:
            raise StoreError(f"feature store {self._label} holds no rows of {self._name!r}; {load}")
        if self._fingerprint not in stored:
            raise ContractMismatch(
                f"feature store {self._label} holds rows of {self._name!r} for contract {', '.join(stored)}; "
                f"this service has contract {self._fingerprint}; {load}"
            )

    def _job_key(self, job: str) -> str:
        return f"{self._name}:load:{self._fingerprint}:{job}"

    async def _command(self, command: Callable[[Any], Any]) -> Any:
        """Run a command off the hot path. Raises StoreError."""
        try:
            if self._client is None:
                self._client = self._new_client(socket_timeout=COMMAND_TIMEOUT_S)
            return await command(self._client)
        except Exception as error:  # redis-py, ssl, socket and URL errors share no base class
            await self._release()
            raise StoreError(f"feature store {self._label}: {_said(error)}") from error

    async def _release(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _new_link(self) -> Link:
        if self._is_cluster:
            return ClusterLink(self._new_cluster(socket_timeout=CLUSTER_NODE_TIMEOUT_S), self._prefix)
        return ServerLink(
            self._new_pool(socket_timeout=None),
            self._prefix.encode(),
            contracts=self._contracts,
            fingerprint=self._fingerprint,
        )

    def _new_client(self, *, socket_timeout: float) -> Redis | RedisCluster:
        if self._is_cluster:
            return self._new_cluster(socket_timeout=socket_timeout)
        return Redis.from_pool(self._new_pool(socket_timeout=socket_timeout))

    def _new_cluster(self, *, socket_timeout: float) -> RedisCluster:
        return RedisCluster.from_url(
            self._url,
            retry=Retry(NoBackoff(), 0),
            max_connections=MAX_CONNECTIONS,
            protocol=2,
            socket_timeout=socket_timeout,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
        )

    def _new_pool(self, *, socket_timeout: float | None) -> ConnectionPool:
        # RESP2: nothing here needs RESP3, whose handshake costs another round trip for each new connection.
        return ConnectionPool.from_url(
            self._url,
            retry=Retry(NoBackoff(), 0),
            max_connections=MAX_CONNECTIONS,
            protocol=2,
            socket_timeout=socket_timeout,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
        )


def _set_all(client: Any, *, values: dict[str, bytes]) -> Any:
    return client.mset_nonatomic(values) if isinstance(client, RedisCluster) else client.mset(values)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
