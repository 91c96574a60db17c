"""Builds the feature rows of one batch from its queries and the fetched rows. Pure: no I/O and no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StoreUnavailable, UnknownKey, quoted
from custom_runtime.features.store import FetchedRows
from custom_runtime.model.encoding import WIDTH, Matrix, encode_table
from custom_runtime.prediction.query import DEFAULT, REQUEST, STORE, Query
from custom_runtime.schema import Value
from custom_runtime.settings import ServingSettings


class Assembler:
    """Builds the rows of a batch, and applies the policy for keys that the store does not return.

    defaults: a contract value for every feature. when_missing, when_down: use the defaults for an unknown key, or
    while the store is down; otherwise such a query is an error.
    """

    def __init__(self, defaults: Mapping[str, Value], *, when_missing: bool, when_down: bool) -> None:
        self._default_row = encode_table({feature.name: [defaults[feature.name]] for feature in CONTRACT.features})[0]
        self._default_when_missing = when_missing
        self._default_when_down = when_down

    @classmethod
    def of(cls, defaults: Mapping[str, Value], settings: ServingSettings) -> Assembler:
        """Return the assembler with the policies of the settings."""
        return cls(
            defaults,
            when_missing=settings.missing_key == "default",
            when_down=settings.store_failure == "default",
        )

    def assemble(
        self, queries: Sequence[Query], fetched: FetchedRows | StoreUnavailable | None
    ) -> tuple[Matrix, list[list[int] | Exception]]:
        """Return the batch's rows (float32 [n, WIDTH]) and, for each query, the sources of its rows or its error."""
        size = sum([len(query.keys) for query in queries])
        all_stored = complete = False
        if isinstance(fetched, FetchedRows):
            all_stored, complete = len(fetched.rows) == size, bool(fetched.updated_at.all())
            if all_stored and complete:
                return fetched.rows, self._overwrite(queries, fetched.rows)
        rows: Matrix = fetched.rows if all_stored else np.empty((size, WIDTH), dtype=np.float32)  # type: ignore[union-attr]
        sources: list[list[int] | Exception] = []
        start = taken = 0
        for query in queries:
            stop = start + query.size
            if not query.needs_store:
                source: list[int] | Exception = [REQUEST] * query.size
            elif isinstance(fetched, FetchedRows):
                part = slice(taken, taken + query.size)
                taken += query.size
                if not all_stored:
                    rows[start:stop] = fetched.rows[part]
                source = (
                    [STORE] * query.size
                    if complete
                    else self._fill_defaults(query, rows[start:stop], fetched.updated_at[part])
                )
            elif self._default_when_down:
                rows[start:stop] = self._default_row
                source = [DEFAULT] * query.size
            else:
                source = fetched or StoreUnavailable("the feature store gave no answer")
            for position, values in query.given.items():
                rows[start:stop, position] = values
            sources.append(source)
            start = stop
        return rows, sources

    @staticmethod
    def _overwrite(queries: Sequence[Query], rows: Matrix) -> list[list[int] | Exception]:
        """Put given values over stored rows, where the store has all of a batch: the usual case, without a copy."""
        sources: list[list[int] | Exception] = []
        start = 0
        for query in queries:
            size = len(query.keys)
            if query.given:
                for position, values in query.given.items():
                    rows[start : start + size, position] = values
            sources.append([STORE] * size)
            start += size
        return sources

    def _fill_defaults(self, query: Query, rows: Matrix, updated_at: NDArray[np.float64]) -> list[int] | Exception:
        """Put the defaults where the store has no row, or return the error that names the unknown key."""
        missing = updated_at == 0.0
        if missing.any() and not self._default_when_missing:
            row = int(np.argmax(missing))
            where = "" if query.size == 1 and not query.first_row else f"[{query.first_row + row}]"
            return UnknownKey(
                f"{CONTRACT.key}{where} {quoted(query.keys[row])} is not in the feature store; "
                f"load it, or give all {WIDTH} features in the request"
            )
        rows[missing] = self._default_row
        return [DEFAULT if absent else STORE for absent in missing.tolist()]
