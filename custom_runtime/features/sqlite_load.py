"""A bulk load into SQLite: rows go to a table of their own, which takes the served one's place in one transaction.

Not a new file renamed over the old: in WAL mode readers of the old file and openers of the new one would share the
-wal and -shm files, which SQLite finds by name, and the new file would be read with the old one's index (SQLite lists
that under "How to corrupt a database file"). A transaction gives the same, old rows or new, and resumes exactly: rows
and position are committed together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from custom_runtime.encoding import Matrix
from custom_runtime.errors import StoreError
from custom_runtime.features.sqlite_table import connect_writer, create_table, quoted, table_of, transaction, upsert
from custom_runtime.features.store import WrittenIds


class SQLiteLoad:
    """One load into the file. in_place: upsert into the served table; customers that the data lacks stay."""

    def __init__(self, path: Path, *, name: str, fingerprint: str, in_place: bool = False) -> None:
        self._path = path
        self._served = table_of(name, fingerprint)
        self._staging = f"{self._served}:loading"
        self._positions = f"{self._served}:position"
        self._in_place = in_place
        self._job = ""
        self._connection: sqlite3.Connection | None = None

    async def begin(self, job: str) -> int:
        """See BulkLoad.begin. Rows that another job left behind unfinished are dropped."""
        with self._reported():
            connection = connect_writer(self._path)
            self._connection = connection
            with transaction(connection):
                # A table that nobody serves yet is filled aside even in place: half a table must not open.
                if self._in_place and not _has_table(connection, self._served):
                    self._in_place = False
                self._job = f"{job} {'in place' if self._in_place else 'aside'}"
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {quoted(self._positions)} (job TEXT PRIMARY KEY, position INTEGER)"
                )
                position = self._position(connection)
                if position is None:
                    connection.execute(f"DELETE FROM {quoted(self._positions)}")  # noqa: S608 (a quoted constant)
                    connection.execute(f"DROP TABLE IF EXISTS {quoted(self._staging)}")
                    self._set_position(connection, 0)
                if not self._in_place:
                    create_table(connection, self._staging)
            return position or 0

    async def write(self, customer_ids: WrittenIds, rows: Matrix, *, updated_at: float, position: int) -> None:
        """See BulkLoad.write. One transaction."""
        target = self._served if self._in_place else self._staging
        with self._reported() as connection, transaction(connection):
            self._check_ownership(connection)
            upsert(connection, target, customer_ids, rows, updated_at=updated_at)
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
                    connection.execute(f"DROP TABLE IF EXISTS {quoted(self._served)}")
                    connection.execute(f"ALTER TABLE {quoted(self._staging)} RENAME TO {quoted(self._served)}")
                connection.execute(f"DROP TABLE {quoted(self._positions)}")
            # Everything into the file itself: it may be copied, mounted read-only, or replaced by hand.
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
            f"SELECT position FROM {quoted(self._positions)} WHERE job = ?",  # noqa: S608 (a quoted constant)
            (self._job,),
        ).fetchone()
        return None if row is None else int(row[0])

    def _set_position(self, connection: sqlite3.Connection, position: int) -> None:
        connection.execute(
            f"INSERT OR REPLACE INTO {quoted(self._positions)} VALUES (?, ?)",  # noqa: S608 (a quoted constant)
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
