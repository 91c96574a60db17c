"""Tables -> customer ids, feature rows and labels, in bounded memory; training and the feature loader share it.

This module names no feature: columns, categories and the meaning of a blank cell come from the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from custom_runtime.contract import KEY, LABEL
from custom_runtime.model.encoding import WIDTH, Matrix
from handoff import columns as cells
from handoff.columns import match_columns
from handoff.errors import DataError
from handoff.table import Table, open_table

log = structlog.get_logger()

# 65,536 rows of text are about 20 MB.
CHUNK_ROWS = 65_536

Ids = NDArray[np.int64]
Labels = NDArray[np.int8]
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled table. customer_ids: int64 [n], rows: float32 [n, WIDTH], labels: int8 [n], 1 is positive."""

    source: str
    customer_ids: Ids
    rows: Matrix
    labels: Labels


def read_dataset(path: Path | None = None) -> Dataset:
    """Read a whole labelled table, the reference table by default. Raises DataError."""
    table = open_table(path)
    label = match_columns(table.names, source=table.source).label
    if label is None:
        raise DataError(f"{table.source}: column missing: {LABEL}; present: {', '.join(table.names)}")
    chunks = list(_chunks(table, CHUNK_ROWS, label=label))
    if not chunks:
        raise DataError(f"{table.source} has no rows")
    ids, rows, labels = zip(*chunks, strict=True)
    return Dataset(table.source, np.concatenate(ids), np.concatenate(rows), np.concatenate(labels))


def iter_chunks(
    path: Path | None = None, rows: int = CHUNK_ROWS, *, row_numbers: bool = True
) -> Iterator[tuple[Ids, Matrix]]:
    """Yield (customer_ids int64 [n], rows float32 [n, WIDTH]) with n <= rows, never holding the whole file.

    customer_ids are the key column where it holds non-negative integers; where the table has none, or text such as
    7590-VHVEG, they are row numbers starting at 1, and a log line says so; without `row_numbers` such a table is
    refused, except the reference table, whose keys are its row numbers. Labels are not needed. Raises DataError.
    """
    for ids, matrix, _ in _chunks(open_table(path), rows, label=None, row_numbers=row_numbers or path is None):
        yield ids, matrix


def _chunks(
    table: Table, rows: int, *, label: str | None, row_numbers: bool = True
) -> Iterator[tuple[Ids, Matrix, Labels]]:
    columns = match_columns(table.names, source=table.source)
    key = columns.key
    start = 0  # rows before this chunk
    for batch in table.batches(columns.names, rows=rows):
        count = batch.num_rows
        if count == 0:
            continue
        chunk = _Chunk(table.source, start, batch)
        if start == 0:
            key = _usable_key(chunk, key, row_numbers=row_numbers)
        ids = np.arange(start + 1, start + count + 1) if key is None else chunk.read(key, cells.customer_ids)
        matrix = np.empty((count, WIDTH), dtype=np.float32)
        for position, column in enumerate(columns.features):
            matrix[:, position] = chunk.read(column.name, partial(cells.feature_values, column=column))
        labels = np.empty(0, dtype=np.int8) if label is None else chunk.read(label, cells.labels)
        yield ids, matrix, labels
        start += count


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A record batch and its position: the table's name, and the number of rows before it."""

    source: str
    start: int
    batch: Any

    def read(self, name: str, reader: Callable[[Any], _Read]) -> _Read:
        values = self.batch.column(name)
        try:
            return reader(values)
        except cells.InvalidValue as invalid:
            row, value = self.start + invalid.row + 1, values[invalid.row].as_py()
            raise DataError(
                f"{self.source}: row {row}: {name} is {value!r:.80}; allowed: {invalid.allowed}"
            ) from invalid
        except pa.ArrowException as error:
            raise DataError(f"{self.source}: {name} has type {values.type}; allowed: text or numbers") from error


def _usable_key(chunk: _Chunk, key: str | None, *, row_numbers: bool) -> str | None:
    first = "" if key is None else chunk.read(key, cells.as_text)[0].as_py()
    # Only text that is not a number means that the ids are of another kind. A blank, -1 or 1.5 among numbers is an
    # error, because row numbers instead would load features under the wrong customers.
    if key is not None and (not first or cells.is_number(first)):
        return key
    reason = f"no column {KEY}" if key is None else f"{key} is {first!r}, no integer"
    if not row_numbers:
        raise DataError(
            f"{chunk.source}: {reason}; features would be loaded under row numbers, which nobody asks for. "
            f"Name the key column {KEY}, or load them under row numbers with --row-numbers"
        )
    log.info("customer_ids", table=chunk.source, ids="row numbers from 1", reason=reason)
    return None
