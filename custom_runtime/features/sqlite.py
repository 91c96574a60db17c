"""The embedded feature store: one SQLite file in WAL mode, read in the serving process itself.

One table per contract, named `<name>:<fingerprint>`, so that rows of another contract are never decoded, not even
while a load replaces them. A load becomes visible in one transaction (sqlite_table.py); readers never wait for it.
`SQLiteFile` keeps the reader's connection, and opens the path again when the file was replaced.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from custom_runtime.errors import ContractMismatch, StoreError, StoreUnavailable
from custom_runtime.features.sqlite_table import (
    connect_reader,
    connect_writer,
    contracts_in,
    create_table,
    key_column,
    quoted_identifier,
    table_of,
    transaction,
    upsert,
)
from custom_runtime.features.store import FetchedRows, Keys, WrittenKeys, decode_records
from custom_runtime.model.encoding import Matrix

# Rows of one statement; between two statements the event loop runs other tasks. 256 rows take ~0.4 ms.
SLICE_ROWS = 256
# How often the path is checked (one stat, ~2 us) for a replaced file.
CHECK_INTERVAL_S = 0.5
# After a failure: how long requests fail at once before the file is tried again.
RETRY_INTERVAL_S = 0.2
Signature = tuple[int, int, int, int]


class SQLiteStore:
    """Features in a SQLite file, for one contract.

    Lookups run on the event loop: one row takes ~8 us, a change to a thread and back would take ~60 us.
    """

    kind = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        fingerprint: str,
        text_keys: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._name = name
        self._fingerprint = fingerprint
        self._text_keys = text_keys
        self._clock = clock
        table, column = quoted_identifier(table_of(name, fingerprint)), key_column(text_keys=text_keys)
        self._one = f"SELECT record FROM {table} WHERE {column} = ?"  # noqa: S608 (a quoted_identifier constant)
        # Measured against IN (?, ...) and one SELECT per key: fastest from 16 keys on; keeps order and duplicates.
        self._many = (
            f"SELECT record FROM json_each(?) AS wanted LEFT JOIN {table} AS stored "  # noqa: S608
            f"ON stored.{column} = wanted.value ORDER BY wanted.key"
        )
        self._file = SQLiteFile(path, name=name, fingerprint=fingerprint, clock=clock)
        self._current = self._file.current  # bound once: saves an attribute lookup on the hot path
        self._writer: sqlite3.Connection | None = None

    async def open(self) -> None:
        """See FeatureStore.open."""
        self._file.open()

    async def fetch(self, keys: Keys, *, timeout_s: float) -> FetchedRows:
        """See FeatureStore.fetch. A batch above SLICE_ROWS is read in slices; each slice is one consistent read."""
        reader = self._current()
        try:
            if len(keys) == 1:
                row = reader.execute(self._one, (keys[0],)).fetchone()
                return decode_records([row and row[0]])
            if len(keys) <= SLICE_ROWS:
                return decode_records(self._slice(reader, keys))
        except (sqlite3.Error, ValueError) as error:
            raise self._file.unavailable(error) from error
        return await self._fetch_slices(keys, timeout_s)

    async def put(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float) -> None:
        """See FeatureStore.put. One transaction; creates the file when it does not exist."""
        table = table_of(self._name, self._fingerprint)
        try:
            if self._writer is None:
                self._writer = connect_writer(self._path)
            with transaction(self._writer):
                create_table(self._writer, table, text_keys=self._text_keys)
                upsert(self._writer, table, keys, rows, updated_at=updated_at)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"feature store {self._path} cannot be written: {error}") from error

    async def count(self) -> int:
        """See FeatureStore.count. Reads every page of the table: not for the hot path."""
        reader = self._current()
        try:
            table = quoted_identifier(table_of(self._name, self._fingerprint))
            return int(reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        except sqlite3.Error as error:
            raise self._file.unavailable(error) from error

    async def close(self) -> None:
        """See FeatureStore.close."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _slice(self, reader: sqlite3.Connection, keys: Keys) -> list[bytes | None]:
        return [row[0] for row in reader.execute(self._many, (orjson.dumps(list(keys)).decode(),))]

    async def _fetch_slices(self, keys: Keys, timeout_s: float) -> FetchedRows:
        deadline_s = self._clock() + timeout_s
        records: list[bytes | None] = []
        for start in range(0, len(keys), SLICE_ROWS):
            try:
                records += self._slice(self._current(), keys[start : start + SLICE_ROWS])
            except sqlite3.Error as error:
                raise self._file.unavailable(error) from error
            if self._clock() > deadline_s:
                raise StoreUnavailable(
                    f"feature store {self._path}: {len(records)} of {len(keys)} rows in {timeout_s * 1e3:g} ms"
                )
            await asyncio.sleep(0)
        return decode_records(records)


class SQLiteFile:
    """The reader's connection to the file at a path. It is opened again when the file was replaced or was missing."""

    def __init__(self, path: Path, *, name: str, fingerprint: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._name = name
        self._fingerprint = fingerprint
        self._clock = clock
        self._reader: sqlite3.Connection | None = None
        self._signature: Signature | None = None
        self._next_check_s = 0.0

    def open(self) -> None:
        """Connect. Raises StoreError or ContractMismatch."""
        try:
            self.connect()
        except FileNotFoundError as error:
            raise StoreError(f"feature store {self._path} does not exist; {_load_command(self._path)}") from error
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"feature store {self._path} cannot be read: {error}; {_load_command(self._path)}"
            ) from error

    def current(self) -> sqlite3.Connection:
        """Return the connection to the file that is at the path now. Raises StoreUnavailable."""
        now_s = self._clock()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + CHECK_INTERVAL_S
            self._reconnect_when_replaced()
        if self._reader is None:
            raise StoreUnavailable(f"feature store {self._path} cannot be read")
        return self._reader

    def connect(self) -> None:
        """Open the path again, and check that the file has rows of the contract."""
        # Close the old connection first: both would map the same -shm file, and closing one drops the other's locks.
        self.close()
        signature = _signature(self._path)
        reader = connect_reader(self._path)
        try:
            self._check_contract(reader)
        except BaseException:
            reader.close()
            raise
        self._reader, self._signature = reader, signature
        self._next_check_s = self._clock() + CHECK_INTERVAL_S

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """Close the connection and return the error to raise; after RETRY_INTERVAL_S a request opens the path again."""
        self.close()
        self._next_check_s = self._clock() + RETRY_INTERVAL_S
        return StoreUnavailable(f"feature store {self._path} cannot be read: {error}")

    def close(self) -> None:
        """Close the connection; `current` opens another one."""
        reader, self._reader, self._signature = self._reader, None, None
        if reader is not None:
            reader.close()

    def _reconnect_when_replaced(self) -> None:
        try:
            if self._reader is None or self._signature != _signature(self._path):
                self.connect()
        except (OSError, sqlite3.Error, StoreError, ContractMismatch) as error:
            raise self.unavailable(error) from error

    def _check_contract(self, reader: sqlite3.Connection) -> None:
        stored = contracts_in(reader, self._name)
        if self._fingerprint in stored:
            return
        if stored:
            raise ContractMismatch(
                f"feature store {self._path} holds rows of {self._name!r} for contract {', '.join(stored)}; this "
                f"service has contract {self._fingerprint}; {_load_command(self._path)}"
            )
        raise StoreError(f"feature store {self._path} holds no rows of {self._name!r}; {_load_command(self._path)}")


def _load_command(path: Path) -> str:
    return f"load it: churn-serving features load --store sqlite:///{path}"


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
