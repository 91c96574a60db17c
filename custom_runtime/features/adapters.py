"""Opens the adapter that a store's URL names; an adapter is imported only when it is used."""

from __future__ import annotations

from custom_runtime.contract import FINGERPRINT, NAME
from custom_runtime.errors import StoreError
from custom_runtime.features.store import (
    REDIS_SCHEMES,
    BulkLoad,
    FeatureStore,
    scheme_of,
    sqlite_path,
    without_credentials,
)


def open_store(url: str, *, name: str = NAME, fingerprint: str = FINGERPRINT) -> FeatureStore:
    """Return the store that `url` names, not connected yet. Raises StoreError when no adapter knows the URL."""
    scheme = scheme_of(url)
    if scheme == "sqlite":
        from custom_runtime.features.sqlite import SQLiteStore

        return SQLiteStore(sqlite_path(url), name=name, fingerprint=fingerprint)
    if scheme in REDIS_SCHEMES:
        from custom_runtime.features.redis import RedisStore

        return RedisStore(url, name=name, fingerprint=fingerprint)
    from custom_runtime.features.memory import MemoryStore

    return MemoryStore(name=name, fingerprint=fingerprint)


def open_load(url: str, *, in_place: bool = False, name: str = NAME, fingerprint: str = FINGERPRINT) -> BulkLoad:
    """Return the bulk load into the store that `url` names. Raises StoreError.

    in_place: overwrite the rows that SQLite serves, batch by batch, instead of replacing all of them at the end.
    Redis is always written in place, key by key.
    """
    scheme = scheme_of(url)
    if scheme == "sqlite":
        from custom_runtime.features.sqlite_table import SQLiteLoad

        return SQLiteLoad(sqlite_path(url), name=name, fingerprint=fingerprint, in_place=in_place)
    if scheme in REDIS_SCHEMES:
        from custom_runtime.features.redis import RedisLoad

        return RedisLoad(url, name=name, fingerprint=fingerprint)
    raise StoreError(
        f"feature store {without_credentials(url)!r} cannot be loaded: its rows live in one process only; "
        "allowed: sqlite or redis URLs"
    )
