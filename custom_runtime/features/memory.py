"""The feature store in this process's memory: for tests, and for a look at the service without a store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from custom_runtime.errors import ContractMismatch
from custom_runtime.features.store import FetchedRows, WrittenIds, decode_records, encode_records
from custom_runtime.model.encoding import Matrix

Shelf = dict[str, dict[int, bytes]]


class MemoryStore:
    """Records in a dict; stores that share a `shelf` (fingerprint -> records) share their rows, as Redis clients do.

    It is born empty in every process, so, unlike the others, an empty one opens.
    """

    kind = "memory"

    def __init__(self, *, name: str, fingerprint: str, shelf: Shelf | None = None) -> None:
        self._name = name
        self._fingerprint = fingerprint
        self._shelf: Shelf = {} if shelf is None else shelf

    async def open(self) -> None:
        """See FeatureStore.open."""
        if self._shelf and self._fingerprint not in self._shelf:
            raise ContractMismatch(
                f"feature store memory:// holds rows of {self._name!r} for contract {', '.join(self._shelf)}; "
                f"this service has contract {self._fingerprint}"
            )

    async def fetch(self, customer_ids: Sequence[int], *, timeout_s: float) -> FetchedRows:
        """See FeatureStore.fetch."""
        records = self._shelf.get(self._fingerprint, {})
        return decode_records([records.get(customer_id) for customer_id in customer_ids])

    async def put(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float) -> None:
        """See FeatureStore.put."""
        ids = np.asarray(customer_ids, dtype=np.int64).tolist()
        records = self._shelf.setdefault(self._fingerprint, {})
        records.update(zip(ids, encode_records(rows, updated_at=updated_at), strict=True))

    async def count(self) -> int:
        """See FeatureStore.count."""
        return len(self._shelf.get(self._fingerprint, {}))

    async def close(self) -> None:
        """See FeatureStore.close."""
