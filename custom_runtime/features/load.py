"""The port of a bulk load: rows in batches, resumable, and visible to readers as the adapter promises."""

from __future__ import annotations

from typing import Protocol

from custom_runtime.contract import FINGERPRINT, NAME
from custom_runtime.encoding import Matrix
from custom_runtime.errors import StoreError
from custom_runtime.features.opening import REDIS_SCHEMES, scheme_of, sqlite_path, without_credentials
from custom_runtime.features.store import WrittenIds


class BulkLoad(Protocol):
    """One load of a whole table. The position is kept in the store itself: what loses the rows loses it too."""

    async def begin(self, job: str) -> int:
        """Start or go on with `job` (an identifier of the data); return how many of its rows are written already."""

    async def write(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float, position: int) -> None:
        """Write rows (float32 [n, WIDTH]), then that `position` rows of the job are written. Raises StoreError."""

    async def finish(self) -> None:
        """Make the rows visible and forget the position."""

    async def close(self) -> None:
        """Release connections; an unfinished load stays as it is, to be gone on with."""


def open_load(url: str, *, in_place: bool = False, name: str = NAME, fingerprint: str = FINGERPRINT) -> BulkLoad:
    """Return the bulk load into the store that `url` names. Raises StoreError.

    in_place: write over the rows that SQLite serves, batch by batch, instead of replacing all of them at the end.
    Redis is always written in place, key by key.
    """
    scheme = scheme_of(url)
    if scheme == "sqlite":
        from custom_runtime.features.sqlite_load import SQLiteLoad

        return SQLiteLoad(sqlite_path(url), name=name, fingerprint=fingerprint, in_place=in_place)
    if scheme in REDIS_SCHEMES:
        from custom_runtime.features.redis_load import RedisLoad

        return RedisLoad(url, name=name, fingerprint=fingerprint)
    raise StoreError(
        f"feature store {without_credentials(url)!r} cannot be loaded: its rows live in one process only; "
        "allowed: sqlite or redis URLs"
    )
