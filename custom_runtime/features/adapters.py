"""Opens the adapter that a store's URL names; an adapter is imported only when it is used."""

from __future__ import annotations

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StoreError
from custom_runtime.features.store import (
    REDIS_SCHEMES,
    BulkLoad,
    FeatureStore,
    scheme_of,
    sqlite_path,
    without_credentials,
)

_TEXT_KEYS = CONTRACT.key_field is not None and CONTRACT.key_field.is_text


def open_store(
    url: str, *, name: str = CONTRACT.name, fingerprint: str = CONTRACT.fingerprint, text_keys: bool = _TEXT_KEYS
) -> FeatureStore:
    """Return the store that `url` names, not connected yet. Raises StoreError when no adapter knows the URL.

    A contract without a key has no store: nothing is ever fetched, and an empty one in memory stands in for it.
    """
    scheme = scheme_of(url) if CONTRACT.key is not None else "memory"
    if scheme == "sqlite":
        from custom_runtime.features.sqlite import SQLiteStore

        return SQLiteStore(sqlite_path(url), name=name, fingerprint=fingerprint, text_keys=text_keys)
    if scheme in REDIS_SCHEMES:
        from custom_runtime.features.redis import RedisStore

        return RedisStore(url, name=name, fingerprint=fingerprint)
    from custom_runtime.features.memory import MemoryStore

    return MemoryStore(name=name, fingerprint=fingerprint)


def open_load(
    url: str,
    *,
    in_place: bool = False,
    name: str = CONTRACT.name,
    fingerprint: str = CONTRACT.fingerprint,
    text_keys: bool = _TEXT_KEYS,
) -> BulkLoad:
    """Return the bulk load into the store that `url` names. Raises StoreError.

    in_place: overwrite the rows that SQLite serves, batch by batch, instead of replacing all of them at the end.
    Redis is always written in place, key by key.
    """
    scheme = scheme_of(url)
    if CONTRACT.key is None:
        raise StoreError(
            f"the contract {CONTRACT.name!r} has no key: every request gives every feature, none is stored"
        )
    if scheme == "sqlite":
        from custom_runtime.features.sqlite_table import SQLiteLoad

        return SQLiteLoad(sqlite_path(url), name=name, fingerprint=fingerprint, in_place=in_place, text_keys=text_keys)
    if scheme in REDIS_SCHEMES:
        from custom_runtime.features.redis import RedisLoad

        return RedisLoad(url, name=name, fingerprint=fingerprint)
    raise StoreError(
        f"feature store {without_credentials(url)!r} cannot be loaded: its rows live in one process only; "
        "allowed: sqlite or redis URLs"
    )
