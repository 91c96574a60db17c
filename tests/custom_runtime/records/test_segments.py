"""Segments on disk: flushed, rotated, bounded, complete after a crash, read while they are written."""

import errno
import io
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.errors import RecordsError
from custom_runtime.records.record import SCHEMA, RecordBuilder, RecordOptions, schema_of
from custom_runtime.records.segments import FINISHED, OPEN, SegmentLimits, SegmentSink, finish, read_records
from tests.support.programs import GUARD_S, ROOT
from tests.support.record_batches import AT_S, batch_of_keys, metrics_of, plain_builder, records_of, sampled


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sink_of(directory: Path, clock: Clock | None = None, *, at_s: float = AT_S, **limits: Any) -> SegmentSink:
    return SegmentSink(
        directory,
        SegmentLimits(**({"retention_s": 10**9} | limits)),
        metrics_of("segments"),
        clock=clock or Clock(),
        wall_clock=lambda: at_s,
    )


def keys_in(directory: Path) -> list[str]:
    return read_records(directory)["key"].to_pylist()


def files_of(directory: Path, suffix: str) -> list[Path]:
    return sorted(directory.glob(f"*{suffix}"))


def test_records_reach_the_disk_with_the_flush_and_become_parquet_with_age(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock, flush_s=1.0, segment_age_s=60.0)
    sink.write(records_of(1, 2))
    sink.tick()
    assert not files_of(tmp_path, OPEN)
    clock.now += 1.0
    sink.tick()
    assert keys_in(tmp_path) == ["1", "2"]  # of a segment that is still open
    sink.write(records_of(3))
    clock.now += 60.0
    sink.tick()
    (finished,) = files_of(tmp_path, FINISHED)
    assert not files_of(tmp_path, OPEN)
    assert keys_in(tmp_path) == ["1", "2", "3"]
    assert finished.name.startswith("records-20270115T08")


def test_a_segment_that_is_big_enough_is_finished(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock, segment_bytes=1_000)
    sink.write(records_of(*range(100)))
    clock.now += 1.0
    sink.tick()
    assert len(files_of(tmp_path, FINISHED)) == 1
    sink.close()
    assert len(keys_in(tmp_path)) == 100


def test_the_directory_stays_within_its_bytes_and_loses_the_oldest(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock, segment_bytes=20_000, max_bytes=100_000)
    for first in range(0, 2_000, 100):
        sink.write(records_of(*range(first, first + 100)))
        clock.now += 1.0
        sink.tick()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100_000
    sink.close()
    keys = [int(key) for key in keys_in(tmp_path)]
    assert keys == list(range(keys[0], 2_000))
    assert 0 < keys[0] < 1_900


def test_old_segments_are_deleted(tmp_path: Path) -> None:
    sink = sink_of(tmp_path)
    sink.write(records_of(1))
    sink.close()
    (finished,) = files_of(tmp_path, FINISHED)
    os.utime(finished, (AT_S, AT_S))
    sink_of(tmp_path, at_s=AT_S + 3_599, retention_s=3_600.0)
    assert finished.exists()
    sink_of(tmp_path, at_s=AT_S + 3_601, retention_s=3_600.0)
    assert not finished.exists()


def test_after_kill_9_everything_up_to_the_last_flush_is_there(tmp_path: Path) -> None:
    writer = subprocess.run(
        [sys.executable, "tests/support/killed_record_writer.py", str(tmp_path), "21"],
        cwd=ROOT,
        timeout=GUARD_S,
        check=False,
        capture_output=True,
    )
    assert writer.returncode == -signal.SIGKILL, writer.stderr
    expected = [str(key) for key in range(21)]
    (left,) = files_of(tmp_path, OPEN)
    assert keys_in(tmp_path) == expected
    # The next process finishes what the dead one left, once.
    sink_of(tmp_path)
    assert not left.exists()
    assert len(files_of(tmp_path, FINISHED)) == 1
    assert keys_in(tmp_path) == expected


class BadDisk(io.FileIO):
    """A file whose first 1,000 bytes can be read, and no more."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 1_000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size) or b""


def opened_on_a_bad_disk(path: Path, mode: str) -> BadDisk:
    return BadDisk(path, mode)


def test_a_segment_that_the_disk_does_not_give_back_is_kept_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock)
    for key in range(20):
        sink.write(records_of(key))
        clock.now += 1.0
        sink.tick()
    (segment,) = files_of(tmp_path, OPEN)
    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", opened_on_a_bad_disk)
        with pytest.raises(OSError, match="Input/output error"):
            finish(segment)
        with pytest.raises(RecordsError, match="Input/output error"):
            keys_in(tmp_path)
    assert files_of(tmp_path, FINISHED) == []
    assert len(keys_in(tmp_path)) == 20
    sink.close()


def test_a_stream_that_ends_inside_a_message_is_read_up_to_it(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock)
    for key in (1, 2):
        sink.write(records_of(key))
        clock.now += 1.0
        sink.tick()
    (left,) = files_of(tmp_path, OPEN)
    torn = tmp_path / "copy"
    torn.mkdir()
    content = left.read_bytes()
    for end in (0, 5, len(content) - 1, len(content) - 300):
        path = torn / left.name
        path.write_bytes(content[:end])
        table = read_records(torn)
        assert table["key"].to_pylist() in ([], ["1"])
    sink.close()


def test_a_segment_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    clock = Clock()
    living = sink_of(tmp_path, clock)
    living.write(records_of(1))
    clock.now += 1.0
    living.tick()
    (left,) = files_of(tmp_path, OPEN)
    sink_of(tmp_path)
    assert left.exists()
    living.close()
    assert keys_in(tmp_path) == ["1"]


def test_a_crash_between_rename_and_deletion_doubles_nothing(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock)
    sink.write(records_of(1, 2))
    clock.now += 1.0
    sink.tick()
    (left,) = files_of(tmp_path, OPEN)
    content = left.read_bytes()
    sink.close()
    left.write_bytes(content)
    assert keys_in(tmp_path) == ["1", "2"]
    sink_of(tmp_path)
    assert not left.exists()
    assert keys_in(tmp_path) == ["1", "2"]


def test_a_failed_write_abandons_the_segment_and_goes_on_in_the_next(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock)
    for key in (1, 2, 3):
        sink.write(records_of(key))
        clock.now += 1.0
        if key == 2:
            segment = sink._segment
            assert segment is not None
            original = segment.append

            def fail(records: pa.Table) -> None:
                raise OSError(28, "No space left on device")

            segment.append = fail
            with pytest.raises(OSError, match="No space left"):
                sink.tick()
            segment.append = original
        else:
            sink.tick()
    sink.close()
    assert keys_in(tmp_path) == ["1", "3"]


def test_reading_chooses_columns_times_and_the_contract(tmp_path: Path) -> None:
    builder = plain_builder()
    sink = sink_of(tmp_path)
    for second in range(4):
        sink.write(builder.build(sampled(builder, batch_of_keys(second, at_s=AT_S + second))))
    sink.close()
    begin = datetime.fromtimestamp(AT_S, UTC)
    part = read_records(
        tmp_path, columns=["key", "score"], since=begin + timedelta(seconds=1), until=begin + timedelta(seconds=3)
    )
    assert part.to_pylist() == [{"key": "1", "score": 0.001}, {"key": "2", "score": 0.002}]
    with pytest.raises(RecordsError, match="no column verdict; allowed: time, request_id"):
        read_records(tmp_path, columns=["verdict"])
    with pytest.raises(RecordsError, match=r"are of contract .*; allowed: another"):
        read_records(tmp_path, contract="another")


def test_segments_of_a_release_without_latencies_are_read_beside_new_ones(tmp_path: Path) -> None:
    builder = plain_builder()
    rows = pa.Table.from_batches([builder.build(sampled(builder, batch_of_keys(1)))])
    pq.write_table(rows.drop_columns(["latency_ms"]), tmp_path / f"records-20200101T000000Z-host-1-1{FINISHED}")
    sink = sink_of(tmp_path)
    sink.write(builder.build(sampled(builder, batch_of_keys(2, submitted_s=1.0)._replace(scored_s=1.002))))
    sink.close()
    read = read_records(tmp_path)
    assert read.schema.names == SCHEMA.names
    assert read.select(["key", "latency_ms"]).to_pylist() == [
        {"key": "1", "latency_ms": None},
        {"key": "2", "latency_ms": 2.0},
    ]


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no records in"):
        read_records(tmp_path)
    (tmp_path / "records-x.parquet").write_bytes(b"not a Parquet file")
    with pytest.raises(RecordsError, match=r"records-x\.parquet is no file of records"):
        read_records(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RecordsError, match=r"records cannot be written to .*mount a volume there"):
        sink_of(file)


def test_a_stream_of_an_earlier_contract_is_finished_as_it_is(tmp_path: Path) -> None:
    other = schema_of(CONTRACT.features[:2], "0" * 64)
    path = tmp_path / f"records-20200101T000000Z-host-1-1{OPEN}"
    builder = RecordBuilder(RecordOptions("churn", "v6", "6", key_mode="plain"))
    rows = builder.build(sampled(builder, batch_of_keys(5)))
    columns = [rows[name] if name != "features" else pa.nulls(1, other.field(name).type) for name in other.names]
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, other) as writer:
        writer.write_batch(pa.record_batch(columns, schema=other))
    assert finish(path) == 1
    assert read_records(tmp_path, columns=["key"], contract="0" * 64)["key"].to_pylist() == ["5"]
