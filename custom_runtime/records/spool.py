"""A bounded queue of files on disk, in the order they were put; it survives the process.

    <spool>/<host>-<pid>-<n>/lock           held (flock) by the process that fills the directory
    <spool>/<host>-<pid>-<n>/<k>-<rows>.json

A directory whose lock nobody holds was left by a process that died: the next spool takes its files over.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import structlog

from custom_runtime.errors import RecordsError

log = structlog.get_logger()

_NUMBERS = itertools.count(1)
_LOCK = "lock"


class SpooledFile(NamedTuple):
    """One file that waits; rows: how many records it holds."""

    path: Path
    rows: int
    size_bytes: int


class Spool:
    """Files below a directory, together at most max_bytes. One thread puts, one takes."""

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        """Open the spool, with what earlier processes left in it. Raises RecordsError."""
        self.max_bytes = max_bytes
        # Each of the two is written by one thread alone, so that neither needs a lock: what came, and what has gone.
        self._put_bytes = self._put_rows = 0
        self._removed_bytes = self._removed_rows = 0
        self._files: dict[int, SpooledFile] = {}
        self._positions = itertools.count(1)
        self._own = directory / f"{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS)}"
        try:
            self._own.mkdir(parents=True, exist_ok=True)
            self._lock = (self._own / _LOCK).open("wb")
            take_lock(self._lock)
        except OSError as error:
            raise RecordsError(
                f"records cannot wait in {directory}: {error.strerror}; mount a volume there, or change "
                "SERVING_RECORD_SPOOL"
            ) from error
        # Of earlier processes' records, those that there was no room for.
        self.deleted_rows = 0
        for other in sorted(directory.iterdir()):
            if other != self._own:
                self._adopt(other)
        if self._files or self.deleted_rows:
            log.info("record_spool_recovered", waiting_rows=self.rows, deleted_rows=self.deleted_rows)

    def put(self, content: bytes, rows: int) -> bool:
        """Add a file; False: there is no room for it. Raises OSError."""
        if self.size_bytes + len(content) > self.max_bytes:
            return False
        position = next(self._positions)
        path = self._own / f"{position:012d}-{rows}.json"
        unfinished = path.with_suffix(".tmp")
        try:
            unfinished.write_bytes(content)
            unfinished.rename(path)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
        self._keep(position, SpooledFile(path, rows, len(content)))
        return True

    def files(self) -> list[SpooledFile]:
        """Return what waits, oldest first."""
        return [self._files[position] for position in sorted(self._files)]

    def remove(self, file: SpooledFile) -> None:
        """Delete a file that was sent, or never will be."""
        with suppress(FileNotFoundError):
            file.path.unlink()
        if self._files.pop(int(file.path.name.partition("-")[0]), None) is not None:
            self._removed_rows += file.rows
            self._removed_bytes += file.size_bytes

    @property
    def rows(self) -> int:
        """The records that wait."""
        return self._put_rows - self._removed_rows

    @property
    def size_bytes(self) -> int:
        """What the files take."""
        return self._put_bytes - self._removed_bytes

    def close(self) -> None:
        """Give the directory up; its files wait for the next process."""
        if not self._files:
            with suppress(OSError):
                (self._own / _LOCK).unlink()
                self._own.rmdir()
        self._lock.close()

    def _keep(self, position: int, file: SpooledFile) -> None:
        self._put_rows += file.rows
        self._put_bytes += file.size_bytes
        self._files[position] = file

    def _adopt(self, other: Path) -> None:
        """Take the files of a process that died over, as far as there is room; delete and count the others."""
        with suppress(OSError), (other / _LOCK).open("rb") as lock:
            if not take_lock(lock):
                return
            for path in sorted(other.glob("*.json")):
                size, rows = path.stat().st_size, path.stem.partition("-")[2]
                if not rows.isdigit():
                    continue
                if self.size_bytes + size > self.max_bytes:
                    self.deleted_rows += int(rows)
                    continue
                position = next(self._positions)
                kept = self._own / f"{position:012d}-{rows}.json"
                path.rename(kept)
                self._keep(position, SpooledFile(kept, int(rows), size))
            for path in other.iterdir():
                path.unlink()
            other.rmdir()


def take_lock(stream: IO[bytes]) -> bool:
    """Take a file's lock; False: a living process has it."""
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
