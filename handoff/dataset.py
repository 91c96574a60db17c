"""Tables -> keys, feature rows and labels, in bounded memory; training and the feature loader share it.

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

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import WIDTH, Matrix
from handoff import columns as cells
from handoff.columns import match_columns
from handoff.errors import DataError
from handoff.table import Table, open_table

log = structlog.get_logger()

# 65,536 rows of text are about 20 MB.
CHUNK_ROWS = 65_536

Keys = NDArray[Any]
Labels = NDArray[Any]
_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A labelled table.

    keys: int64 [n], or text as object [n]. rows: float32 [n, WIDTH].
    labels: int8 [n], the class's place in the contract's task (1 is positive), or float64 [n], a regression's value.
    """

    source: str
    keys: Keys
    rows: Matrix
    labels: Labels


def read_dataset(path: Path | None = None) -> Dataset:
    """Read a whole labelled table, the reference table by default. Raises DataError."""
    table = open_table(path)
    label = match_columns(table.names, source=table.source).label
    if label is None:
        raise DataError(f"{table.source}: column missing: {CONTRACT.label}; present: {', '.join(table.names)}")
    chunks = list(_chunks(table, CHUNK_ROWS, label=label))
    if not chunks:
        raise DataError(f"{table.source} has no rows")
    keys, rows, labels = zip(*chunks, strict=True)
    return Dataset(table.source, np.concatenate(keys), np.concatenate(rows), np.concatenate(labels))


def iter_chunks(
    path: Path | None = None, rows: int = CHUNK_ROWS, *, row_numbers: bool = True
) -> Iterator[tuple[Keys, Matrix]]:
    """Yield (keys int64 or object [n], rows float32 [n, WIDTH]) with n <= rows, never holding the whole file.

    keys are the key column where it holds what the contract declares; where the table has none, or text in place of
    integers, they are row numbers starting at 1, and a log line says so; without `row_numbers` such a table is
    refused, except the reference table, whose keys are its row numbers. Labels are not needed. Raises DataError.
    """
    for keys, matrix, _ in _chunks(open_table(path), rows, label=None, row_numbers=row_numbers or path is None):
        yield keys, matrix


def _chunks(
    table: Table, rows: int, *, label: str | None, row_numbers: bool = True
) -> Iterator[tuple[Keys, Matrix, Labels]]:
    columns = match_columns(table.names, source=table.source)
    key, key_field = columns.key, CONTRACT.key_field
    start = 0  # rows before this chunk
    for batch in table.batches(columns.names, rows=rows):
        count = batch.num_rows
        if count == 0:
            continue
        chunk = _Chunk(table.source, start, batch)
        if start == 0 and key_field is not None:
            key = _usable_key(chunk, key, row_numbers=row_numbers)
        if key is None or key_field is None:
            numbers = np.arange(start + 1, start + count + 1)
            keys = numbers.astype(str).astype(object) if key_field is not None and key_field.is_text else numbers
        else:
            keys = chunk.read(key, partial(cells.keys, key=key_field))
        matrix = np.empty((count, WIDTH), dtype=np.float32)
        for position, column in enumerate(columns.features):
            matrix[:, position] = chunk.read(column.name, partial(cells.feature_values, column=column))
        labels = np.empty(0, dtype=np.int8) if label is None else chunk.read(label, cells.labels)
        yield keys, matrix, labels
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
    # Only text that is not a number means that the keys are of another kind. A blank, -1 or 1.5 among numbers is an
    # error, because row numbers instead would load features under the wrong keys.
    is_text = CONTRACT.key_field is not None and CONTRACT.key_field.is_text
    if key is not None and (is_text or not first or cells.is_number(first)):
        return key
    reason = f"no column {CONTRACT.key}" if key is None else f"{key} is {first!r}, no integer"
    if not row_numbers:
        raise DataError(
            f"{chunk.source}: {reason}; features would be loaded under row numbers, which nobody asks for. "
            f"Name the key column {CONTRACT.key}, or load them under row numbers with --row-numbers"
        )
    log.info("row_numbers", table=chunk.source, keys="row numbers from 1", reason=reason)
    return None
