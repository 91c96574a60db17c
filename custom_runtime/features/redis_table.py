"""The keys of one contract in Redis, and the commands on them off the hot path.

A value is a record (store.py) under `<name>:<fingerprint>:<key>`. `<name>:contract` is the set of fingerprints
that are loaded. Rows of two contracts can be stored at once, so that during a canary with a new feature the pods of the
old contract still start. A bulk load writes key by key in place: a reader sees the old row or the new row of each key.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from custom_runtime.errors import StoreError
from custom_runtime.features.redis_link import close_client
from custom_runtime.features.store import WrittenKeys, as_list, encode_records
from custom_runtime.model.encoding import Matrix

# Keys of one MSET: it takes ~1 ms, during which Redis runs no other command.
WRITE_ROWS = 1_000


class RedisTable:
    """Writes, publishes and counts the rows of one contract. Every method raises StoreError when the command fails."""

    def __init__(self, new_client: Callable[[], Any], *, name: str, fingerprint: str, label: str) -> None:
        """Create clients with `new_client` when a command needs one. label: the store's name in error messages."""
        self.prefix = f"{name}:{fingerprint}:"
        self.contracts_key = f"{name}:contract"
        self._new_client = new_client
        self._name = name
        self._fingerprint = fingerprint
        self._label = label
        self._client: Any = None

    async def contracts(self) -> list[str]:
        """Return the fingerprints that are loaded."""
        stored = await self._run(lambda client: client.smembers(self.contracts_key))
        return sorted(fingerprint.decode(errors="replace") for fingerprint in stored)

    async def write(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float) -> None:
        """Write rows without publishing their contract, so that a partly loaded store does not open."""
        ids = as_list(keys)
        records = encode_records(rows, updated_at=updated_at)
        for start in range(0, len(ids), WRITE_ROWS):
            part = slice(start, start + WRITE_ROWS)
            values = {f"{self.prefix}{key}": record for key, record in zip(ids[part], records[part], strict=True)}
            await self._run(partial(_set_all, values=values))

    async def publish(self) -> None:
        """Add this contract to those that are loaded."""
        await self._run(lambda client: client.sadd(self.contracts_key, self._fingerprint))

    async def position(self, job: str) -> int:
        """Return how many rows an interrupted load of `job` has written."""
        stored = await self._run(lambda client: client.get(self._job_key(job)))
        return int(stored or 0)

    async def set_position(self, job: str, position: int | None) -> None:
        """Store how many rows of `job` are written; None: the job is finished."""
        key = self._job_key(job)
        await self._run(lambda client: client.delete(key) if position is None else client.set(key, position))

    async def count(self) -> int:
        """Count this contract's rows, by a scan of all keys."""

        async def scan(client: Any) -> int:
            total = 0
            async for _ in client.scan_iter(match=f"{self.prefix}*", count=5_000):
                total += 1
            return total

        return int(await self._run(scan))

    async def release(self) -> None:
        """Close the client; the next command creates another one."""
        client, self._client = self._client, None
        if client is not None:
            await close_client(client)

    def _job_key(self, job: str) -> str:
        return f"{self._name}:load:{self._fingerprint}:{job}"

    async def _run(self, command: Callable[[Any], Any]) -> Any:
        """Run a command. Raises StoreError."""
        try:
            if self._client is None:
                self._client = self._new_client()
            return await command(self._client)
        except Exception as error:  # redis-py, ssl, socket and URL errors share no base class
            await self.release()
            raise StoreError(f"feature store {self._label}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Return an exception's message, or its class name where the message is empty."""
    return str(error) or type(error).__name__


def _set_all(client: Any, *, values: dict[str, bytes]) -> Any:
    # Only a cluster's client has mset_nonatomic: its keys are on several nodes.
    return client.mset_nonatomic(values) if hasattr(client, "mset_nonatomic") else client.mset(values)
