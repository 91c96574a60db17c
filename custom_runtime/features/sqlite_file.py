"""The reader's connection to the SQLite file that stands at a path, whichever that is now."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from custom_runtime.errors import ContractMismatch, StoreError, StoreUnavailable
from custom_runtime.features.sqlite_table import connect_reader, contracts_in

# How often the path is looked at (one stat, ~2 us) for another file in its place.
CHECK_INTERVAL_S = 0.5
# After a failure: how long requests fail at once before the file is tried again.
RETRY_INTERVAL_S = 0.2

Signature = tuple[int, int, int, int]


class SQLiteFile:
    """Notices that the file was replaced or is gone, and opens what stands there when it holds the contract's rows."""

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
        """Return the connection to the file that stands at the path now. Raises StoreUnavailable."""
        now_s = self._clock()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + CHECK_INTERVAL_S
            self._reconnect_when_replaced()
        if self._reader is None:
            raise StoreUnavailable(f"feature store {self._path} cannot be read")
        return self._reader

    def connect(self) -> None:
        """Open the path anew, whatever stands there."""
        # The old connection goes first: both would map the same -shm file, and closing one drops the other's locks.
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

    def lost(self, error: Exception) -> StoreUnavailable:
        """Let go of the connection: the next request after RETRY_INTERVAL_S opens the path anew."""
        self.close()
        self._next_check_s = self._clock() + RETRY_INTERVAL_S
        return StoreUnavailable(f"feature store {self._path} cannot be read: {error}")

    def close(self) -> None:
        """Close the connection; `current` makes another."""
        reader, self._reader, self._signature = self._reader, None, None
        if reader is not None:
            reader.close()

    def _reconnect_when_replaced(self) -> None:
        try:
            if self._reader is None or self._signature != _signature(self._path):
                self.connect()
        except (OSError, sqlite3.Error, StoreError, ContractMismatch) as error:
            raise self.lost(error) from error

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
    return f"load it: python scripts/load_features.py --store sqlite:///{path}"


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
