"""The ports of the feature store: `FeatureStore` for serving, `BulkLoad` for loading; store URLs and stored records.

A URL names a store. A bulk load writes rows in batches and is resumable; each adapter documents when its rows become
visible to readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from custom_runtime.errors import StoreError
from custom_runtime.model.encoding import ROW_BYTES, WIDTH, Matrix

REDIS_SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
SCHEMES = ("sqlite", *REDIS_SCHEMES, "memory")
ALLOWED = (
    "sqlite:///relative.db, sqlite:////absolute.db, redis://HOST:PORT/DB, rediss://, redis+cluster://, "
    "rediss+cluster:// or memory://"
)

# Keys to write may be a column of an array; keys to fetch are a list, as they come in requests.
Keys = Sequence[int] | Sequence[str]
WrittenKeys = Keys | NDArray[Any]

# A stored value: when the row was computed (unix seconds, float64), then the row itself.
RECORD_DTYPE = np.dtype([("updated_at", "<f8"), ("row", "<f4", (WIDTH,))])
RECORD_BYTES = 8 + ROW_BYTES
# Replaces a missing row while a batch is decoded; updated_at 0 marks it.
MISSING_RECORD = bytes(RECORD_BYTES)


@dataclass(frozen=True, slots=True)
class FetchedRows:
    """The rows of one batch, in the order of the requested keys.

    rows: float32 [n, WIDTH], writable; a missing row is all zeros.
    updated_at: float64 [n], unix seconds; 0 where the store has no row.
    """

    rows: Matrix
    updated_at: NDArray[np.float64]


class FeatureStore(Protocol):
    """Packed feature rows by key, for one contract fingerprint."""

    kind: str  # "sqlite", "redis" or "memory": the label of the fetch metrics

    async def open(self) -> None:
        """Connect. Raises StoreError when that fails, ContractMismatch when rows of another contract are stored."""

    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        """Return the rows of a batch in one round trip. Raises StoreUnavailable when the store is down or slow."""

    async def put(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float) -> None:
        """Write rows (float32 [n, WIDTH]) and the contract's fingerprint; the last write wins. Raises StoreError."""

    async def count(self) -> int:
        """Return how many rows are stored for this contract."""

    async def close(self) -> None:
        """Release connections. May be called twice."""


class BulkLoad(Protocol):
    """One load of a whole table. The store keeps the position, so that rows and position are lost together."""

    async def begin(self, job: str) -> int:
        """Start or resume `job` (an identifier of the data); return how many of its rows are already written."""

    async def write(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float, position: int) -> None:
        """Write rows (float32 [n, WIDTH]) and set the job's position, the number of rows written. Raises StoreError."""

    async def finish(self) -> None:
        """Make the rows visible and delete the position."""

    async def close(self) -> None:
        """Release connections; an unfinished load can be resumed."""


def as_list(keys: WrittenKeys) -> list[Any]:
    """Return keys to write as Python's own integers or text."""
    return np.asarray(keys).tolist()  # type: ignore[no-any-return]


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
    """Return the URL without user, password and query, so that it can be logged."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    # Cut up to the last @: a password with an unquoted / must not show either.
    return scheme + separator + (rest.rpartition("@")[2] if scheme in REDIS_SCHEMES else rest)


def decode_records(records: Sequence[bytes | None]) -> FetchedRows:
    """Decode stored values (None: no row) with one `frombuffer` for the whole batch."""
    joined = b"".join([MISSING_RECORD if record is None else record for record in records])
    decoded = np.frombuffer(bytearray(joined), dtype=RECORD_DTYPE)
    return FetchedRows(
        rows=np.ascontiguousarray(decoded["row"]), updated_at=np.ascontiguousarray(decoded["updated_at"])
    )


def encode_records(rows: Matrix, *, updated_at: float) -> list[bytes]:
    """Encode rows (float32 [n, WIDTH]) into n stored values of RECORD_BYTES bytes."""
    records = np.empty(len(rows), dtype=RECORD_DTYPE)
    records["updated_at"] = updated_at
    records["row"] = rows
    joined = records.tobytes()
    return [joined[start : start + RECORD_BYTES] for start in range(0, len(joined), RECORD_BYTES)]
