"""From settings to a recorder: what is refused, and that a recorder of each kind works."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from custom_runtime.errors import RecordsError
from custom_runtime.records import configuration
from custom_runtime.records.configuration import open_recorder
from custom_runtime.records.segments import read_records
from custom_runtime.settings import ServingSettings
from tests.support.event_sink import event_receiver
from tests.support.record_batches import batch_of_keys, metrics_of


def run(label: str, *keys: int, **settings: Any) -> None:
    """Open a recorder, record some keys, and close it."""
    serving = ServingSettings(**({"record_key": "plain"} | settings))
    recorder = open_recorder(serving, metrics_of(label), model="churn", version="7")
    assert recorder is not None
    batch = batch_of_keys(*keys)
    recorder.offer(batch.queries, batch.rows, batch.results, batch.fetched)
    recorder.close()


def test_a_file_url_writes_segments(tmp_path: Path) -> None:
    run("file", 1, 2, records=f"file://{tmp_path}/a%20b")
    assert read_records(tmp_path / "a b")["key"].to_pylist() == ["1", "2"]


def test_a_http_url_sends_events(tmp_path: Path) -> None:
    with event_receiver() as receiver:
        run("http", 1, 2, records=receiver.url, record_spool=tmp_path)
        assert [event["data"]["parameters"]["key"] for event in receiver.events] == ["1", "2"]


def test_nothing_is_recorded_where_nothing_is_asked() -> None:
    assert open_recorder(ServingSettings(), metrics_of("off"), model="churn", version="7") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"records": None, "challengers": ("var/bundle-8",)}, r"SERVING_RECORDS is not: their scores would be lost"),
        ({"records": "s3://bucket"}, r"SERVING_RECORDS is 's3://bucket'; allowed: file:///directory"),
        ({"records": "file://host/directory"}, r"allowed: file:///directory"),
        ({"records": "records"}, r"SERVING_RECORDS is 'records'"),
        ({"records": "file:///proc/none"}, r"records cannot be written to /proc/none"),
        ({"records": "file:///tmp/r", "record_key": "hashed"}, r"SERVING_RECORD_SALT is not set"),
        ({"records": "file:///tmp/r", "record_max_bytes": 2**20}, r"allowed: at least two segments"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordsError, match=message):
        run("refused", **settings)


def test_challengers_are_a_list_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVING_CHALLENGERS", "var/bundle-8, var/bundle-9,")
    assert ServingSettings().challengers == (Path("var/bundle-8"), Path("var/bundle-9"))
    monkeypatch.delenv("SERVING_CHALLENGERS")
    assert ServingSettings().challengers == ()


def test_a_contract_without_a_key_needs_no_salt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "CONTRACT", SimpleNamespace(key=None))
    recorder = open_recorder(
        ServingSettings(records=f"file://{tmp_path}", record_key="hashed"),
        metrics_of("keyless"),
        model="churn",
        version="7",
    )
    assert recorder is not None
    recorder.close()
