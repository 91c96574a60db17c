"""The feature store's port: what serving and loading ask of a store, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from custom_runtime.encoding import ROW_BYTES, WIDTH, Matrix

# What is written may come as a column; what is asked for is a list, as requests bring it.
WrittenIds = Sequence[int] | NDArray[np.int64]

# A stored value: when the row was computed (unix seconds, float64), then the row itself.
RECORD_DTYPE = np.dtype([("updated_at", "<f8"), ("row", "<f4", (WIDTH,))])
RECORD_BYTES = 8 + ROW_BYTES
# Stands in for a missing row while a batch is decoded: updated_at 0 marks it.
MISSING_RECORD = bytes(RECORD_BYTES)


@dataclass(frozen=True, slots=True)
class FetchedRows:
    """The rows of one batch, in the order of the ids asked for.

    rows: float32 [n, WIDTH], writable; a missing customer's row is all zeros.
    updated_at: float64 [n], unix seconds; 0 where the store has no row.
    """

    rows: Matrix
    updated_at: NDArray[np.float64]


class FeatureStore(Protocol):
    """Packed feature rows by customer id, for one contract fingerprint."""

    kind: str  # "sqlite", "redis" or "memory": the label of the fetch metrics

    async def open(self) -> None:
        """Connect. Raises StoreError when that fails, ContractMismatch when rows of another contract are stored."""

    async def fetch(self, customer_ids: Sequence[int], *, timeout_s: float) -> FetchedRows:
        """Return the rows of a batch in one round trip. Raises StoreUnavailable when the store is down or slow."""

    async def put(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float) -> None:
        """Write rows (float32 [n, WIDTH]) and the contract's fingerprint; the last write wins. Raises StoreError."""

    async def count(self) -> int:
        """Return how many customers are stored for this contract."""

    async def close(self) -> None:
        """Release connections. May be called twice."""


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
