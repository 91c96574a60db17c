"""What stands in the SQLite file, and how it is opened: one table per contract, WAL, a reader that never writes."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np

from custom_runtime.encoding import Matrix
from custom_runtime.features.store import RECORD_BYTES, WrittenIds, encode_records

# A reader in WAL mode meets a lock only while another process recovers or converts the file.
READ_BUSY_MS = 5
WRITE_BUSY_MS = 10_000


def table_of(name: str, fingerprint: str) -> str:
    """Return the table of one contract: `<name>:<fingerprint>`, the prefix of the Redis keys too."""
    return f"{name}:{fingerprint}"


def quoted(identifier: str) -> str:
    """Quote an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def contracts_in(connection: sqlite3.Connection, name: str) -> list[str]:
    """Return the fingerprints of the contracts whose rows of `name` are stored."""
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    parts = [table.split(":") for (table,) in tables]
    return sorted(part[1] for part in parts if len(part) == 2 and part[0] == name)


def create_table(connection: sqlite3.Connection, table: str) -> None:
    """Make the table of one contract where there is none."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {quoted(table)} (customer_id INTEGER PRIMARY KEY, record BLOB NOT NULL "
        f"CHECK (length(record) = {RECORD_BYTES}))"
    )


def upsert(
    connection: sqlite3.Connection, table: str, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float
) -> None:
    """Write rows in the open transaction; the last write of a customer wins."""
    ids = np.asarray(customer_ids, dtype=np.int64).tolist()
    records = encode_records(rows, updated_at=updated_at)
    connection.executemany(
        f"INSERT OR REPLACE INTO {quoted(table)} VALUES (?, ?)",  # noqa: S608 (a quoted constant)
        zip(ids, records, strict=True),
    )


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the file for writing in WAL mode, and make it where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=WRITE_BUSY_MS / 1e3, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode a power cut may lose the last commits, never the file; a load is repeated.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


class transaction:
    """`with transaction(connection):` one write transaction, taken at once, rolled back on any error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open the file for reading only. Raises sqlite3.OperationalError when it cannot be."""
    uri = path.absolute().as_uri() + "?mode=ro"
    try:
        return _opened(uri)
    except sqlite3.OperationalError:
        # WAL wants to write a -shm file beside the database. On a read-only volume nobody writes, so none is needed.
        if os.access(path.parent, os.W_OK) or path.with_name(path.name + "-wal").exists():
            raise
        return _opened(uri + "&immutable=1")


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=READ_BUSY_MS / 1e3, check_same_thread=False
    )
    try:
        # No mmap: a file that is cut short under a mapping kills the process with SIGBUS.
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
