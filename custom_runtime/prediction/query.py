"""A query and its prediction: the values that the protocols and the predictor exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from custom_runtime.errors import StoreUnavailable
from custom_runtime.features.store import FetchedRows, Keys
from custom_runtime.model.encoding import WIDTH, Matrix
from custom_runtime.tracing import RequestOrigin, RequestTrace

# Nothing given: what most queries say of their row's features.
NO_FEATURES: Mapping[int, float] = {}
# Where a row's features came from, as an index into FEATURE_SOURCES.
STORE, REQUEST, DEFAULT = range(3)


# Named tuples, not dataclasses: one of each is created for every request, at a third of a frozen dataclass's cost.
class Query(NamedTuple):
    """What a request asks for: rows by their keys, and the encoded feature values that it gave for them.

    keys: n keys, integers or text; row numbers where the contract has no key.
    given: feature position -> one float32 value (n = 1), or float32 [n].
    first_row: the number of the first row in the caller's request, where this is a slice of it.
    trace: the trace of the caller's request, where it has one. inference_id: the V2 message's id; None: /predict.
    origin: where the request came from; submitted_s: when the predictor took it, by its monotonic clock. Both are set
    only where predictions are recorded.
    """

    keys: Keys
    given: Mapping[int, float | NDArray[np.float32]]
    first_row: int = 0
    trace: RequestTrace | None = None
    inference_id: str | None = None
    origin: RequestOrigin | None = None
    submitted_s: float | None = None

    def to_record(self, origin: RequestOrigin | None, submitted_s: float) -> Query:
        """Return the query with what a record says of it; `_replace` takes twice as long."""
        return Query(self.keys, self.given, self.first_row, self.trace, self.inference_id, origin, submitted_s)

    @property
    def size(self) -> int:
        """Rows of this query."""
        return len(self.keys)

    @property
    def needs_store(self) -> bool:
        """Whether the request left out at least one feature."""
        return len(self.given) < WIDTH


class Prediction(NamedTuple):
    """scores: n floats, or n lists of the contract's columns. sources: n indices into FEATURE_SOURCES."""

    scores: list[Any]
    sources: list[int]


class BatchRecorder(Protocol):
    """Takes what was predicted, to record it."""

    def offer(
        self,
        queries: Sequence[Query],
        rows: Matrix,
        results: Sequence[Prediction | Exception],
        fetched: FetchedRows | StoreUnavailable | None,
    ) -> None:
        """Take one batch, on the event loop and without waiting; what there is no room for is dropped and counted.

        results: one for each query. rows: of the queries without an error, in order. fetched: the store's rows for the
        queries that needed them, in order.
        """
