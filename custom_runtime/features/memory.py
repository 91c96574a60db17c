"""The in-memory feature store: for tests, and for trying the service without a store."""

from __future__ import annotations

from custom_runtime.errors import ContractMismatch
from custom_runtime.features.store import FetchedRows, Keys, WrittenKeys, as_list, decode_records, encode_records
from custom_runtime.model.encoding import Matrix

SharedRecords = dict[str, dict[int | str, bytes]]  # contract fingerprint -> key -> record


class MemoryStore:
    """Records in a dict. Stores that are given the same `shared` dict see the same rows, as clients of one Redis do.

    It starts empty in every process; therefore, unlike the other stores, it also opens when it is empty.
    """

    kind = "memory"

    def __init__(self, *, name: str, fingerprint: str, shared: SharedRecords | None = None) -> None:
        self._name = name
        self._fingerprint = fingerprint
        self._shared: SharedRecords = {} if shared is None else shared

    async def open(self) -> None:
        """See FeatureStore.open."""
        if self._shared and self._fingerprint not in self._shared:
            raise ContractMismatch(
                f"feature store memory:// holds rows of {self._name!r} for contract {', '.join(self._shared)}; "
                f"this service has contract {self._fingerprint}"
            )

    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        """See FeatureStore.fetch."""
        records = self._shared.get(self._fingerprint, {})
        return decode_records([records.get(key) for key in keys])

    async def put(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float) -> None:
        """See FeatureStore.put."""
        records = self._shared.setdefault(self._fingerprint, {})
        records.update(zip(as_list(keys), encode_records(rows, updated_at=updated_at), strict=True))

    async def count(self) -> int:
        """See FeatureStore.count."""
        return len(self._shared.get(self._fingerprint, {}))

    async def close(self) -> None:
        """See FeatureStore.close."""
