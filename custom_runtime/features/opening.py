"""A store's URL -> its adapter, imported only when it is the one in use."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from custom_runtime.contract import FINGERPRINT, NAME
from custom_runtime.errors import StoreError
from custom_runtime.features.store import FeatureStore

REDIS_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
SCHEMES = ("sqlite", *REDIS_SCHEMES, "memory")
ALLOWED = (
    "sqlite:///relative.db, sqlite:////absolute.db, redis://HOST:PORT/DB, rediss://, redis+cluster://, "
    "rediss+cluster:// or memory://"
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
    if scheme == "memory":
        from custom_runtime.features.memory import MemoryStore

        return MemoryStore(name=name, fingerprint=fingerprint)
    return MemoryStore(name=name, fingerprint=fingerprint)


def scheme_of(url: str) -> str:
    """Return the URL's scheme. Raises StoreError when no adapter knows it."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise StoreError(f"feature store {without_credentials(url)!r}: unknown scheme {scheme!r}; allowed: {ALLOWED}")
    return scheme


def sqlite_path(url: str) -> Path:
    """Return the file of a sqlite:// URL: three slashes are relative, four are absolute, as in SQLAlchemy."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or parts.query or len(path) < 2:
        raise StoreError(
            f"feature store {url!r} names no file; allowed: sqlite:///relative.db or sqlite:////absolute.db"
        )
    return Path(path[1:])


def without_credentials(url: str) -> str:
    """Return the URL as it may be logged: without user, password and query."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    # Up to the last @: a password that holds an unquoted / must not show either.
    return scheme + separator + (rest.rpartition("@")[2] if scheme in REDIS_SCHEMES else rest)
