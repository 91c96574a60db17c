"""The queue and its thread: bounded, counted, and never in the way of an answer."""

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import REGISTRY

from custom_runtime.errors import BundleError
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import Matrix
from custom_runtime.prediction.challengers import Challengers, open_challengers
from custom_runtime.records.record import RecordBuilder, RecordOptions
from custom_runtime.records.recorder import CHUNK_ROWS, Recorder
from tests.support.record_batches import KeepingSink, batch_of_keys, metrics_of, plain_builder


class ConstantScorer:
    def __init__(self, score: float = 0.5) -> None:
        self.value = score
        self.rows = 0

    def score(self, rows: Matrix) -> NDArray[np.float32]:
        self.rows += len(rows)
        return np.full(len(rows), self.value, dtype=np.float32)


class FailingScorer:
    def score(self, rows: Matrix) -> NDArray[np.float32]:
        raise RuntimeError("a broken graph")


def recorder_of(label: str, sink: KeepingSink, **options: Any) -> Recorder:
    return Recorder(sink, plain_builder(), metrics_of(label), **({"max_rows": 1_024} | options))


def offer(recorder: Recorder, *keys: int) -> None:
    batch = batch_of_keys(*keys)
    recorder.offer(batch.queries, batch.rows, batch.results, batch.fetched)


def counted(label: str, outcome: str) -> float:
    labels = {"model": "churn", "version": "7", "predictor": label, "outcome": outcome}
    return REGISTRY.get_sample_value("serving_records_total", labels) or 0.0


def test_what_was_offered_is_written_in_order() -> None:
    sink = KeepingSink()
    recorder = recorder_of("order", sink, max_rows=10_000)
    for key in range(3 * CHUNK_ROWS):
        offer(recorder, key)
    recorder.work()
    assert sink.keys == [str(key) for key in range(3 * CHUNK_ROWS)]
    assert sink.ticks == 1


def test_what_does_not_fit_is_dropped_and_counted_until_there_is_room_again() -> None:
    sink = KeepingSink()
    recorder = recorder_of("full", sink)
    for start in range(0, 2_048, 256):
        offer(recorder, *range(start, start + 256))
    assert counted("full", "dropped") == 1_024
    recorder.work()
    offer(recorder, 9_999)
    recorder.work()
    assert sink.keys == [*(str(key) for key in range(1_024)), "9999"]


def test_a_sink_that_fails_loses_its_records_only() -> None:
    sink = KeepingSink()
    recorder = recorder_of("broken", sink)
    sink.error = OSError(28, "No space left on device")
    offer(recorder, 1, 2, 3)
    recorder.work()
    sink.error = None
    offer(recorder, 4)
    recorder.work()
    assert sink.keys == ["4"]
    assert counted("broken", "failed") == 3


def test_rows_that_are_not_in_the_sample_are_not_lost_when_the_sink_fails() -> None:
    sink, metrics = KeepingSink(), metrics_of("sampled")
    builder = RecordBuilder(RecordOptions("churn", "v7", "7", key_mode="plain", share=0.5))
    recorder = Recorder(sink, builder, metrics, max_rows=1_024)
    sink.error = OSError(28, "No space left on device")
    offer(recorder, *range(100))
    recorder.work()
    left_out = counted("sampled", "sampled_out")
    assert 20 < left_out < 80
    assert counted("sampled", "failed") == 100 - left_out


def test_the_end_writes_what_waits_and_closes_the_sink() -> None:
    sink = KeepingSink()
    recorder = recorder_of("end", sink)
    recorder.start()
    offer(recorder, 1, 2)
    recorder.close()
    assert sink.keys == ["1", "2"]
    assert sink.is_closed
    assert not [thread for thread in threading.enumerate() if thread.name == "records"]


def test_a_challenger_that_fails_leaves_the_champions_record() -> None:
    sink, metrics = KeepingSink(), metrics_of("failing")
    challengers = Challengers({"8": FailingScorer(), "9": ConstantScorer(0.25)}, metrics)
    recorder = Recorder(sink, plain_builder(), metrics, max_rows=1_024, challengers=challengers)
    offer(recorder, 1, 2)
    recorder.work()
    found = [records.to_pylist() for records in sink.records]
    assert [record["score"] for record in found[0]] == [0.001, 0.002]
    assert [[each["version"] for each in record["challengers"]] for record in found[0]] == [["9"], ["9"]]
    assert challenger_rows("failing", "8", "failed") == 2
    assert challenger_rows("failing", "9", "scored") == 2


def test_challengers_wait_when_the_records_are_behind() -> None:
    sink, metrics, scorer = KeepingSink(), metrics_of("behind"), ConstantScorer()
    recorder = Recorder(
        sink, plain_builder(), metrics, max_rows=4 * CHUNK_ROWS, challengers=Challengers({"8": scorer}, metrics)
    )
    for start in range(0, 4 * CHUNK_ROWS, CHUNK_ROWS):
        offer(recorder, *range(start, start + CHUNK_ROWS))
    recorder.work()
    assert len(sink.keys) == 4 * CHUNK_ROWS  # every record of the champion
    assert scorer.rows == 2 * CHUNK_ROWS
    assert challenger_rows("behind", "8", "skipped") == 2 * CHUNK_ROWS


def test_a_challenger_of_the_served_version_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bundle:
        version, files = "7", ("onnx",)

    monkeypatch.setattr("custom_runtime.prediction.challengers.read_bundle", lambda directory: Bundle)
    with pytest.raises(BundleError, match="is version 7, which is already served"):
        open_challengers((tmp_path,), metrics_of("same"), champion="7")
    assert open_challengers((), metrics_of("same"), champion="7") is None


def challenger_rows(label: str, challenger: str, outcome: str) -> float:
    labels = {"model": "churn", "version": "7", "predictor": label, "challenger": challenger, "outcome": outcome}
    return REGISTRY.get_sample_value("serving_challenger_rows_total", labels) or 0.0


def test_metrics_count_nothing_for_nothing() -> None:
    metrics: ServingMetrics = metrics_of("nothing")
    metrics.count_records("written", 0)
    assert counted("nothing", "written") == 0.0
