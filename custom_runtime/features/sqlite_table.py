"""The tables in the SQLite file, how it is opened (WAL; readers never write), and the bulk load.

A bulk load writes to a table of its own, which replaces the served table in one transaction. The file itself is not
replaced by a rename: in WAL mode, readers of the old file and processes that open the new one would share the -wal and
-shm files, which SQLite finds by name, and would read the new file with the old one's index (SQLite's page "How to
Corrupt An SQLite Database File" lists this). With a transaction, readers see the old rows or the new rows as well, and
an interrupted load resumes exactly, because rows and position are committed together.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custom_runtime.errors import StoreError
from custom_runtime.features.store import RECORD_BYTES, WrittenKeys, as_list, encode_records
from custom_runtime.model.encoding import Matrix

# In WAL mode a reader waits for a lock only while another process recovers or converts the file.
READ_BUSY_MS = 5
WRITE_BUSY_MS = 10_000


def table_of(name: str, fingerprint: str) -> str:
    """Return the table of one contract: `<name>:<fingerprint>`, which is also the prefix of the Redis keys."""
    return f"{name}:{fingerprint}"


def quoted_identifier(identifier: str) -> str:
    """Quote an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def contracts_in(connection: sqlite3.Connection, name: str) -> list[str]:
    """Return the fingerprints of the contracts whose rows of `name` are stored."""
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    parts = [table.split(":") for (table,) in tables]
    return sorted(part[1] for part in parts if len(part) == 2 and part[0] == name)


def key_column(*, text_keys: bool) -> str:
    """Return the column of the key. Integers are SQLite's own rowid, whatever an earlier version called the column."""
    return "row_key" if text_keys else "rowid"


def create_table(connection: sqlite3.Connection, table: str, *, text_keys: bool) -> None:
    """Create the table of one contract when it does not exist."""
    # Text keys are the table's own order, without a rowid beside them: one lookup instead of two.
    kind, suffix = ("TEXT", " WITHOUT ROWID") if text_keys else ("INTEGER", "")
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {quoted_identifier(table)} (row_key {kind} PRIMARY KEY, record BLOB NOT NULL "
        f"CHECK (length(record) = {RECORD_BYTES})){suffix}"
    )


def upsert(connection: sqlite3.Connection, table: str, keys: WrittenKeys, rows: Matrix, *, updated_at: float) -> None:
    """Write rows in the open transaction; the last write of a key wins."""
    records = encode_records(rows, updated_at=updated_at)
    connection.executemany(
        f"INSERT OR REPLACE INTO {quoted_identifier(table)} VALUES (?, ?)",  # noqa: S608 (a quoted_identifier constant)
        zip(as_list(keys), records, strict=True),
    )


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open the file for writing in WAL mode; create it when it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=WRITE_BUSY_MS / 1e3, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode a power failure may lose the last commits, but never damages the file; a load can be repeated.
        connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


class transaction:
    """`with transaction(connection):` one write transaction, begun immediately, rolled back on any error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open the file read-only. Raises sqlite3.OperationalError when that fails."""
    uri = path.absolute().as_uri() + "?mode=ro"
    try:
        return _opened(uri)
    except sqlite3.OperationalError:
        # WAL writes a -shm file beside the database. On a read-only volume no process writes, so none is needed.
        if os.access(path.parent, os.W_OK) or path.with_name(path.name + "-wal").exists():
            raise
        return _opened(uri + "&immutable=1")


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=READ_BUSY_MS / 1e3, check_same_thread=False
    )
    try:
        # No mmap: a file that is truncated while it is mapped kills the process with SIGBUS.
        connection.execute("PRAGMA mmap_size = 0")
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


class SQLiteLoad:
    """One load into the file. in_place: upsert into the served table; rows that are not in the data stay."""

    def __init__(
        self, path: Path, *, name: str, fingerprint: str, in_place: bool = False, text_keys: bool = False
    ) -> None:
        self._path = path
        self._served = table_of(name, fingerprint)
        self._staging = f"{self._served}:loading"
        self._positions = f"{self._served}:position"
        self._in_place = in_place
        self._text_keys = text_keys
        self._job = ""
        self._connection: sqlite3.Connection | None = None

    async def begin(self, job: str) -> int:
        """See BulkLoad.begin. The rows of another, unfinished job are dropped."""
        with self._reported():
            connection = connect_writer(self._path)
            self._connection = connection
            with transaction(connection):
                # A first load uses the staging table even with in_place: a partly filled table must not open.
                if self._in_place and not _has_table(connection, self._served):
                    self._in_place = False
                self._job = f"{job} {'in place' if self._in_place else 'aside'}"
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {quoted_identifier(self._positions)} "
                    "(job TEXT PRIMARY KEY, position INTEGER)"
                )
                position = self._position(connection)
                if position is None:
                    connection.execute(f"DELETE FROM {quoted_identifier(self._positions)}")  # noqa: S608 (a quoted_identifier constant)
                    connection.execute(f"DROP TABLE IF EXISTS {quoted_identifier(self._staging)}")
                    self._set_position(connection, 0)
                if not self._in_place:
                    create_table(connection, self._staging, text_keys=self._text_keys)
            return position or 0

    async def write(self, keys: WrittenKeys, rows: Matrix, *, updated_at: float, position: int) -> None:
        """See BulkLoad.write. One transaction."""
        target = self._served if self._in_place else self._staging
        with self._reported() as connection, transaction(connection):
            self._check_ownership(connection)
            upsert(connection, target, keys, rows, updated_at=updated_at)
            self._set_position(connection, position)

    async def finish(self) -> None:
        """See BulkLoad.finish."""
        with self._reported() as connection:
            with transaction(connection):
                if self._position(connection) is None:
                    raise StoreError(
                        f"feature store {self._path}: another load has taken over; run this one again later"
                    )
                if not self._in_place:
                    connection.execute(f"DROP TABLE IF EXISTS {quoted_identifier(self._served)}")
                    connection.execute(
                        f"ALTER TABLE {quoted_identifier(self._staging)} RENAME TO {quoted_identifier(self._served)}"
                    )
                connection.execute(f"DROP TABLE {quoted_identifier(self._positions)}")
            # Write everything into the main file: it may be copied, mounted read-only, or replaced by an operator.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    async def close(self) -> None:
        """See BulkLoad.close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _check_ownership(self, connection: sqlite3.Connection) -> None:
        if self._position(connection) is None:
            raise StoreError(f"feature store {self._path}: another load has taken over; run this one again later")

    def _position(self, connection: sqlite3.Connection) -> int | None:
        if not _has_table(connection, self._positions):
            return None
        row = connection.execute(
            f"SELECT position FROM {quoted_identifier(self._positions)} WHERE job = ?",  # noqa: S608 (a quoted_identifier constant)
            (self._job,),
        ).fetchone()
        return None if row is None else int(row[0])

    def _set_position(self, connection: sqlite3.Connection, position: int) -> None:
        connection.execute(
            f"INSERT OR REPLACE INTO {quoted_identifier(self._positions)} VALUES (?, ?)",  # noqa: S608 (a quoted_identifier constant)
            (self._job, position),
        )

    @contextmanager
    def _reported(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection  # type: ignore[misc]
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"feature store {self._path} cannot be written: {error}") from error


def _has_table(connection: sqlite3.Connection, table: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,))
    return found.fetchone() is not None
