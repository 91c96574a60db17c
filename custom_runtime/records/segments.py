"""Records on disk: an open segment that survives a crash, finished ones as Parquet, a bounded directory, a reader.

    records-<UTC begin>-<host>-<pid>-<n>.arrows     open: an Arrow IPC stream; each flush adds complete messages
    records-<UTC begin>-<host>-<pid>-<n>.parquet    finished: written beside it, then renamed

A Parquet file cannot be read before its footer is written; a stream can, up to its last complete message. The process
that writes a stream holds a lock (flock) on it: one without a lock was left by a process that died, and the next one to
start on the directory finishes it. Several processes, and pods on a shared volume, may write into one directory.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from custom_runtime.errors import RecordsError
from custom_runtime.metrics import ServingMetrics
from custom_runtime.records.record import CONTRACT_METADATA, SCHEMA, utc
from custom_runtime.records.spool import take_lock

log = structlog.get_logger()

OPEN, FINISHED, UNFINISHED = ".arrows", ".parquet", ".tmp"
_PREFIX = "records-"
_NUMBERS = itertools.count(1)
_STREAM_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """When records are flushed, when a segment is finished, and what the directory may hold."""

    flush_s: float = 1.0
    segment_bytes: int = 16 * 1024 * 1024
    segment_age_s: float = 300.0
    max_bytes: int = 1024 * 1024 * 1024
    retention_s: float = 30 * 86_400.0


class SegmentSink:
    """Writes the records of one process into a directory. See `Sink`."""

    def __init__(
        self,
        directory: Path,
        limits: SegmentLimits,
        metrics: ServingMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the directory, and finish what a process that died has left. Raises RecordsError."""
        self._directory = directory
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._waiting: list[pa.RecordBatch] = []
        self._flushed_at = clock()
        self._segment: _OpenSegment | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / f".{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RecordsError(
                f"records cannot be written to {directory}: {error.strerror}; mount a volume there, or change "
                "SERVING_RECORDS"
            ) from error
        self._recover()
        self._enforce()

    def write(self, records: pa.RecordBatch) -> None:
        """See Sink. The records reach the file with the next flush."""
        self._waiting.append(records)

    def tick(self) -> None:
        """See Sink."""
        now = self._clock()
        if now - self._flushed_at >= self._limits.flush_s:
            self._flushed_at = now
            self._flush()
        segment, limits = self._segment, self._limits
        if segment is not None and (
            segment.size_bytes >= limits.segment_bytes or now - segment.began >= limits.segment_age_s
        ):
            self._rotate()

    def close(self) -> None:
        """See Sink."""
        self._flush()
        self._rotate()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        rows = sum(records.num_rows for records in waiting)
        if not rows:
            return
        try:
            if self._segment is None:
                self._segment = _OpenSegment(self._directory / self._new_name(), began=self._clock())
            self._segment.append(pa.Table.from_batches(waiting))
        except (OSError, pa.ArrowException):
            self._metrics.count_records("failed", rows)
            # What the stream ends in now is unknown: nothing may follow it. It is readable up to its last message.
            self._abandon()
            self._enforce()
            raise
        self._metrics.count_records("written", rows)

    def _rotate(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            try:
                finish(segment.path)
            finally:
                segment.close()
                self._enforce()

    def _abandon(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()
            log.warning("records_segment_abandoned", file=segment.path.name)

    def _new_name(self) -> str:
        begin = utc(self._wall_clock()).strftime("%Y%m%dT%H%M%SZ")
        return f"{_PREFIX}{begin}-{socket.gethostname()}-{os.getpid()}-{next(_NUMBERS):06d}{OPEN}"

    def _recover(self) -> None:
        """Finish the segments of processes that died, and delete what they were writing beside them."""
        for path in sorted(self._directory.glob(f"{_PREFIX}*{OPEN}")):
            with suppress(OSError), path.open("rb") as stream:
                if take_lock(stream):
                    rows = finish(path)
                    log.info("records_recovered", file=path.name, rows=rows)
        for path in self._directory.glob(f"{_PREFIX}*{UNFINISHED}"):
            with suppress(OSError):
                if not path.with_suffix(OPEN).exists():
                    path.unlink()

    def _enforce(self) -> None:
        """Delete the oldest finished segments beyond the directory's limits; open ones count, and stay."""
        limits = self._limits
        oldest_at = self._wall_clock() - limits.retention_s
        room = limits.max_bytes - limits.segment_bytes  # what this process may add before it looks again
        for path, size, changed_at in reversed(list(_listed(self._directory))):
            room -= size
            if path.suffix == FINISHED and (room < 0 or changed_at < oldest_at):
                with suppress(FileNotFoundError):
                    path.unlink()
                    log.info("records_deleted", file=path.name, reason="room" if room < 0 else "age")


class _OpenSegment:
    """A stream that this process appends to, and holds the lock of."""

    def __init__(self, path: Path, *, began: float) -> None:
        self.path = path
        self.began = began
        self._stream: IO[bytes] = path.open("xb", buffering=0)
        take_lock(self._stream)
        self._writer = pa.ipc.new_stream(self._stream, SCHEMA, options=_STREAM_OPTIONS)
        self.size_bytes = 0

    def append(self, records: pa.Table) -> None:
        """Add complete messages, and wait until they are on the disk."""
        self._writer.write_table(records.combine_chunks())
        os.fsync(self._stream.fileno())
        self.size_bytes = self._stream.tell()

    def close(self) -> None:
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._stream.close()


def finish(path: Path) -> int:
    """Turn an open segment into a Parquet file and delete it; return its rows. Raises OSError."""
    table = _read_stream(path)
    target = path.with_suffix(FINISHED)
    if table.num_rows and not target.exists():  # else a crash came between the rename and the deletion
        unfinished = path.with_suffix(UNFINISHED)
        pq.write_table(table, unfinished, compression="zstd")
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.rename(target)
    path.unlink()
    return int(table.num_rows)


def read_records(
    directory: Path,
    *,
    columns: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    contract: str | None = None,
) -> pa.Table:
    """Return the records of a directory, segments that are still open included, oldest segment first.

    columns: names of SCHEMA; None: all. since, until: times with a zone, since <= time < until. contract: the
    fingerprint that all of them must have. Raises RecordsError: no records, a file that holds none, or records of
    another contract.
    """
    unknown = [name for name in columns or () if name not in SCHEMA.names]
    if unknown:
        raise RecordsError(f"records have no column {', '.join(unknown)}; allowed: {', '.join(SCHEMA.names)}")
    tables = []
    for path, _, _ in _listed(directory):
        with suppress(FileNotFoundError):  # retention deletes, and a finished segment changes its name
            table = _completed(_read(path))
            made_for = (table.schema.metadata or {}).get(CONTRACT_METADATA, b"").decode()
            if contract is not None and made_for != contract:
                raise RecordsError(f"the records in {path} are of contract {made_for}; allowed: {contract}")
            tables.append(_between(table, since, until).select(list(columns or table.column_names)))
    if not tables:
        raise RecordsError(f"no records in {directory}; allowed: a directory that SERVING_RECORDS=file://... names")
    try:
        return pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise RecordsError(f"the records in {directory} are of several contracts: choose one") from error


def _completed(table: pa.Table) -> pa.Table:
    """Add the columns that an earlier release did not write, without values."""
    for position, field in enumerate(SCHEMA):
        if field.nullable and field.name not in table.column_names:
            table = table.add_column(position, field, pa.nulls(table.num_rows, field.type))
    return table


def _between(table: pa.Table, since: datetime | None, until: datetime | None) -> pa.Table:
    if since is not None:
        table = table.filter(pc.greater_equal(table["time"], pa.scalar(since, table["time"].type)))
    if until is not None:
        table = table.filter(pc.less(table["time"], pa.scalar(until, table["time"].type)))
    return table


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == OPEN:
            try:
                return _read_stream(path)
            except FileNotFoundError:  # finished in the meantime
                path = path.with_suffix(FINISHED)
        return pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise RecordsError(f"{path} is no file of records: {error}") from error


def _read_stream(path: Path) -> pa.Table:
    """Read a stream up to its last complete message; one that does not even begin is empty. Raises OSError."""
    batches: list[pa.RecordBatch] = []
    schema = SCHEMA
    with path.open("rb") as stream, suppress(pa.ArrowInvalid):
        try:
            reader = pa.ipc.open_stream(stream)
            schema = reader.schema
            batches.extend(reader)
        except OSError as error:
            if error.errno is not None:  # the system's: there is more than could be read
                raise
    return pa.Table.from_batches(batches, schema)


def _listed(directory: Path) -> Iterator[tuple[Path, int, float]]:
    """Yield the segments of a directory in the order of their begin: path, bytes, time of the last change."""
    names = sorted(path for path in directory.glob(f"{_PREFIX}*") if path.suffix in (OPEN, FINISHED))
    finished = {path.stem for path in names if path.suffix == FINISHED}
    for path in names:
        if path.suffix == OPEN and path.stem in finished:
            continue
        with suppress(FileNotFoundError):
            status = path.stat()
            yield path, status.st_size, status.st_mtime
