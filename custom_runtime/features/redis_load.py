"""A bulk load into Redis: key by key in place, each customer's row old or new."""

from __future__ import annotations

from custom_runtime.encoding import Matrix
from custom_runtime.features.redis import RedisStore
from custom_runtime.features.store import WrittenIds


class RedisLoad:
    """Upserts. The contract is published at the end, so that a store loaded for the first time opens complete."""

    def __init__(self, url: str, *, name: str, fingerprint: str) -> None:
        self._table = RedisStore(url, name=name, fingerprint=fingerprint).table
        self._job = ""

    async def begin(self, job: str) -> int:
        """See BulkLoad.begin."""
        self._job = job
        return await self._table.position(job)

    async def write(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float, position: int) -> None:
        """See BulkLoad.write. A load cut off in between writes the same rows again."""
        await self._table.write(customer_ids, rows, updated_at=updated_at)
        await self._table.set_position(self._job, position)

    async def finish(self) -> None:
        """See BulkLoad.finish."""
        await self._table.publish()
        await self._table.set_position(self._job, None)

    async def close(self) -> None:
        """See BulkLoad.close."""
        await self._table.release()
