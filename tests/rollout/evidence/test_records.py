"""Prediction records as the service writes them, read by the names of their columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from custom_runtime.records.record import SCHEMA
from rollout.errors import EvidenceMalformed, EvidenceUnavailable
from rollout.evidence.records import NEEDED, OPTIONAL, read_records
from tests.support.prediction_records import table

BOTH = ("v1", "v2")


def test_segments_of_both_versions_are_read_from_a_time_on(tmp_path: Path) -> None:
    parquet.write_table(
        table([(100, "a", "v1", 0.1), (200, "b", "v1", 0.2), (201, None, "v1", 0.2)]), tmp_path / "1.parquet"
    )
    parquet.write_table(table([(200.5, "b", "v2", 0.3), (200, "b", "v3", 0.9)]), tmp_path / "2.parquet")
    found = read_records(f"file://{tmp_path}", BOTH, since_s=150)
    assert [(one.predictor, one.request, one.answer.scores) for one in found] == [
        ("v1", ("b", 0), (0.2,)),
        ("v2", ("b", 0), (0.3,)),
    ]
    assert found[1].at_s == pytest.approx(200.5)


def test_the_open_segment_of_a_process_is_read_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    batches = [table([(200 + i, f"r{i}", "v1", 0.5)]).to_batches()[0] for i in range(3)]
    file = tmp_path / "records.arrows"
    with pa.ipc.new_stream(file, batches[0].schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    content = file.read_bytes()
    assert len(read_records(str(tmp_path), BOTH, since_s=0)) == 3
    file.write_bytes(content[:-80])
    assert len(read_records(str(tmp_path), BOTH, since_s=0)) == 2
    file.write_bytes(content[:20])
    assert read_records(str(tmp_path), BOTH, since_s=0) == []


def test_rows_classes_and_latencies_are_taken_where_they_are(tmp_path: Path) -> None:
    more = {
        "row": pa.array([1], pa.int32()),
        "scores": pa.array([[0.2, 0.8]], pa.list_(pa.float64())),
        "latency_ms": pa.array([3.5], pa.float64()),
    }
    parquet.write_table(table([(200, "a", "v1", 0.0)], **more), tmp_path / "1.parquet")
    (found,) = read_records(str(tmp_path), BOTH, since_s=0)
    assert (found.request, found.answer.scores, found.answer.latency_ms) == (("a", 1), (0.2, 0.8), 3.5)


def test_the_services_records_have_every_column_that_is_read() -> None:
    assert {*NEEDED, *OPTIONAL} <= set(SCHEMA.names)


def test_of_very_many_rows_the_same_requests_of_both_versions_are_compared(tmp_path: Path) -> None:
    rows = [(200.0, f"r{i}", name, 0.5) for i in range(1000) for name in BOTH]
    parquet.write_table(table(rows), tmp_path / "1.parquet")
    found = read_records(str(tmp_path), BOTH, since_s=0, most_rows=500)
    stable, canary = ({one.request for one in found if one.predictor == name} for name in BOTH)
    assert stable == canary
    assert 150 < len(stable) < 350


def test_what_is_no_directory_of_records_is_said(tmp_path: Path) -> None:
    with pytest.raises(EvidenceUnavailable, match="is SERVING_RECORDS set"):
        read_records(str(tmp_path), BOTH, since_s=0)
    parquet.write_table(pa.table({"time": [1]}), tmp_path / "1.parquet")
    with pytest.raises(EvidenceMalformed, match="no column request_id, predictor"):
        read_records(str(tmp_path), BOTH, since_s=0)
    (tmp_path / "1.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(EvidenceMalformed, match="cannot be read as prediction records"):
        read_records(str(tmp_path), BOTH, since_s=0)
