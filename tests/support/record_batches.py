"""Batches as the predictor hands them over, and a sink that keeps what it gets."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from custom_runtime.active import CONTRACT
from custom_runtime.features.store import FetchedRows
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import Matrix, encode_table
from custom_runtime.prediction.query import STORE, Prediction, Query
from custom_runtime.records.record import RecordBuilder, RecordOptions, SampledRows, ScoredBatch, take_rows

EXAMPLE_ROW = encode_table({feature.name: [feature.example] for feature in CONTRACT.features})[0]
AT_S = 1_800_000_000.25
STORED_AT_S = 1_799_990_000.0


def rows_of(count: int) -> Matrix:
    return np.tile(EXAMPLE_ROW, (count, 1))


def batch_of(queries: Sequence[Query], *, at_s: float = AT_S) -> ScoredBatch:
    """Every row scores its key / 1000, and comes from the store."""
    results = [Prediction([int(key) / 1000 for key in query.keys], [STORE] * query.size) for query in queries]
    size = sum(query.size for query in queries)
    fetched = FetchedRows(rows_of(size), np.full(size, STORED_AT_S))
    return ScoredBatch(at_s, queries, rows_of(size), results, fetched)


def batch_of_keys(*keys: int, at_s: float = AT_S, submitted_s: float | None = None) -> ScoredBatch:
    return batch_of([Query((key,), {}, submitted_s=submitted_s) for key in keys], at_s=at_s)


def records_of(*keys: int, builder: RecordBuilder | None = None) -> pa.RecordBatch:
    builder = builder or plain_builder()
    return builder.build(sampled(builder, batch_of_keys(*keys)))


def sampled(builder: RecordBuilder, *batches: ScoredBatch) -> SampledRows:
    return builder.sample([take_rows(batch) for batch in batches])


def plain_builder() -> RecordBuilder:
    return RecordBuilder(RecordOptions("churn", "v7", "7", key_mode="plain", with_features=True))


def metrics_of(label: str) -> ServingMetrics:
    """Metrics of their own for each test: counters live as long as the process."""
    return ServingMetrics(model=CONTRACT.name, version="7", predictor=label, store="memory")


class KeepingSink:
    """Keeps the records; fails where the test says so."""

    def __init__(self) -> None:
        self.records: list[pa.RecordBatch] = []
        self.error: Exception | None = None
        self.ticks = 0
        self.is_closed = False

    def write(self, records: pa.RecordBatch) -> None:
        if self.error is not None:
            raise self.error
        self.records.append(records)

    def tick(self) -> None:
        self.ticks += 1

    def close(self) -> None:
        self.is_closed = True

    @property
    def keys(self) -> list[str]:
        return [key for records in self.records for key in records["key"].to_pylist()]
