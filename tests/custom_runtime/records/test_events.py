"""CloudEvents to a real sink on this machine: their form, retries, the bounded spool, what a dead process left."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from custom_runtime.active import CONTRACT
from custom_runtime.errors import RecordsError
from custom_runtime.prediction.query import Query
from custom_runtime.records.events import BATCH_TYPE, EventSink, EventSource, Sender
from custom_runtime.records.record import RecordBuilder, RecordOptions
from custom_runtime.records.spool import Spool
from custom_runtime.tracing import RequestOrigin
from tests.support.certificates import Authority
from tests.support.event_sink import EventReceiver, event_receiver
from tests.support.programs import eventually
from tests.support.record_batches import batch_of, metrics_of, plain_builder, records_of, sampled

SOURCE = EventSource("churn", "v7", deployment="churn-prod", namespace="seldon")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def receiver() -> Iterator[EventReceiver]:
    with event_receiver() as receiver:
        yield receiver


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", max_bytes=1_000_000)
    yield spool
    spool.close()


def fill(spool: Spool, *keys: int) -> bool:
    return spool.put(orjson.dumps(list(SOURCE.events_of(records_of(*keys)))), len(keys))


def sender_of(receiver: EventReceiver, spool: Spool, label: str, **options: Any) -> Sender:
    return Sender(receiver.url, spool, metrics_of(label), **options)


def counted(label: str, outcome: str) -> float:
    labels = {"model": "churn", "version": "7", "predictor": label, "outcome": outcome}
    return REGISTRY.get_sample_value("serving_records_total", labels) or 0.0


def keys_of(events: list[dict[str, Any]]) -> list[str]:
    return [event["data"]["parameters"]["key"] for event in events if event["type"].endswith("response")]


def test_a_record_is_a_response_and_its_features_a_request_as_seldons_logger_takes_them() -> None:
    query = Query((42,), {}, inference_id="v2-1", origin=RequestOrigin("r-1", TRACEPARENT), submitted_s=7.0)
    builder = plain_builder()
    batch = batch_of([query])._replace(scored_s=7.0125)
    response, request = SOURCE.events_of(builder.build(sampled(builder, batch)))
    ids = response.pop("id"), request.pop("id")
    assert len(set(ids)) == 2
    common = {
        "specversion": "1.0",
        "source": "/churn/v7",
        "time": "2027-01-15T08:00:00.250000+00:00",
        "datacontenttype": "application/json",
        "requestid": "r-1",
        "modelid": "churn",
        "inferenceservicename": "churn-prod",
        "endpoint": "v7",
        "protocol": "v2",
        "namespace": "seldon",
        "traceparent": TRACEPARENT,
    }
    data = response.pop("data")
    assert response == common | {"type": "io.seldon.serving.inference.response"}
    assert data == {
        "model_name": "churn",
        "model_version": "7",
        "id": "r-1",
        "parameters": {
            "row": 0,
            "inference_id": "v2-1",
            "key": "42",
            "source": "store",
            "features_time": "2027-01-15T05:13:20+00:00",
            "latency_ms": 12.5,
            "contract": CONTRACT.fingerprint,
        },
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [1, 1], "data": [0.042]}],
    }
    data = request.pop("data")
    assert request == common | {"type": "io.seldon.serving.inference.request"}
    (tensor,) = data["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("features", "FP32", [1, len(CONTRACT.features)])
    assert all(isinstance(value, float) for value in tensor["data"])
    assert list(data["parameters"]) == [feature.name for feature in CONTRACT.features]


def test_without_features_there_is_no_request_event() -> None:
    builder = RecordBuilder(RecordOptions("churn", "v7", "7", key_mode="omitted"))
    (event,) = SOURCE.events_of(records_of(1, builder=builder))
    assert event["type"] == "io.seldon.serving.inference.response"
    assert event["requestid"] == event["id"]  # the request brought none
    assert not {"key", "key_hash"} & event["data"]["parameters"].keys()


def test_rows_of_a_batch_have_request_ids_of_their_own() -> None:
    builder = plain_builder()
    records = builder.build(sampled(builder, batch_of([Query([1, 2, 3], {}, inference_id="a")])))
    events = [event for event in SOURCE.events_of(records) if event["type"].endswith("response")]
    assert [event["requestid"] for event in events] == ["a", "a-item-1", "a-item-2"]


def test_batches_arrive_in_order_and_are_counted(receiver: EventReceiver, spool: Spool) -> None:
    for first in range(0, 9, 3):
        assert fill(spool, first, first + 1, first + 2)
    assert sender_of(receiver, spool, "sent", token="t" * 16).send_all() == 0.0
    assert keys_of(receiver.events) == [str(key) for key in range(9)]
    assert {request.headers["content-type"] for request in receiver.received} == {BATCH_TYPE}
    assert {request.headers["authorization"] for request in receiver.received} == {"Bearer " + "t" * 16}
    assert counted("sent", "written") == 9
    assert spool.files() == []


def test_the_binary_mode_sends_each_event_with_its_attributes_as_headers(receiver: EventReceiver, spool: Spool) -> None:
    fill(spool, 1, 2)
    assert sender_of(receiver, spool, "binary", is_batched=False).send_all() == 0.0
    assert [request.headers["ce-type"].rpartition(".")[2] for request in receiver.received] == [
        "response",
        "request",
        "response",
        "request",
    ]
    first = receiver.received[0]
    assert first.headers["content-type"] == "application/json"
    assert (first.headers["ce-specversion"], first.headers["ce-modelid"]) == ("1.0", "churn")
    assert first.body["outputs"][0]["data"] == [0.001]


@pytest.mark.parametrize("status", [500, 503, 429, 408, 401, 403, 404, 307])
def test_a_sink_that_fails_is_asked_again_later_with_the_same_events(
    receiver: EventReceiver, spool: Spool, status: int
) -> None:
    label = f"later-{status}"
    fill(spool, 1)
    fill(spool, 2)
    receiver.answers = [status, status]
    sender = sender_of(receiver, spool, label)
    with capture_logs() as said:
        waits = [sender.send_all(), sender.send_all(), sender.send_all()]
    assert [(line["event"], line["waiting_rows"]) for line in said] == [
        ("record_sink_unavailable", 2),
        ("record_sink_available", 2),
    ]
    assert {line["sink"] for line in said} == {receiver.url.split("/")[2]}
    assert 0.25 <= waits[0] <= 0.5 <= waits[1] <= 1.0
    assert waits[2] == 0.0
    ids = [[event["id"] for event in request.body] for request in receiver.received]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert keys_of(receiver.events) == ["1", "2"]
    assert counted(label, "written") == 2


def test_a_sink_that_is_not_there_is_waited_for(spool: Spool) -> None:
    with event_receiver() as gone:
        pass
    fill(spool, 1)
    sender = sender_of(gone, spool, "gone")
    assert all(sender.send_all() > 0.0 for _ in range(12))
    assert 15.0 <= sender.send_all() <= 30.0  # never longer
    assert [file.rows for file in spool.files()] == [1]


def test_what_the_sink_refuses_for_good_is_dropped_and_counted(receiver: EventReceiver, spool: Spool) -> None:
    fill(spool, 1, 2)
    fill(spool, 3)
    receiver.answers = [400]
    assert sender_of(receiver, spool, "refused").send_all() == 0.0
    assert keys_of(receiver.events) == ["3"]
    assert (counted("refused", "failed"), counted("refused", "written")) == (2, 1)


def test_an_event_of_its_own_that_is_refused_takes_no_other_with_it(receiver: EventReceiver, spool: Spool) -> None:
    fill(spool, 1, 2, 3)
    # Each record has a response and a request: of the first both are refused, of the second its request.
    receiver.answers = [400, 413, 202, 400]
    with capture_logs() as said:
        assert sender_of(receiver, spool, "one-refused", is_batched=False).send_all() == 0.0
    assert [(line["event"], line["status"], line["rows"]) for line in said] == [("record_sink_refused", 400, 2)]
    assert len(receiver.received) == 6
    assert (counted("one-refused", "failed"), counted("one-refused", "written")) == (2, 1)
    assert spool.files() == []


def test_the_sink_may_speak_https_with_a_certificate_of_a_given_authority(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("sink")
    with event_receiver(server.cert, server.key) as receiver:
        fill(spool, 1)
        assert sender_of(receiver, spool, "untrusted").send_all() > 0.0
        assert receiver.received == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.pair.cert))
        assert sender_of(receiver, spool, "trusted").send_all() == 0.0
        assert keys_of(receiver.events) == ["1"]


def test_the_spool_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2_500)
    assert [spool.put(b"x" * 1_000, 1) for _ in range(4)] == [True, True, False, False]
    spool.remove(spool.files()[0])
    assert spool.put(b"x" * 1_000, 1)
    assert spool.size_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.json")) == 2_000
    spool.close()


def test_files_of_a_process_that_died_are_sent_by_the_next(receiver: EventReceiver, tmp_path: Path) -> None:
    dead = Spool(tmp_path, max_bytes=100_000)
    fill(dead, 1)
    fill(dead, 2)
    living = Spool(tmp_path, max_bytes=100_000)
    assert living.files() == []  # its owner lives
    fcntl.flock(dead._lock.fileno(), fcntl.LOCK_UN)  # what the kernel does when a process dies
    with capture_logs() as said:
        heir = Spool(tmp_path, max_bytes=100_000)
    assert said == [
        {"event": "record_spool_recovered", "waiting_rows": 2, "deleted_rows": 0, "log_level": "info"},
    ]
    fill(heir, 3)
    assert sender_of(receiver, heir, "heir").send_all() == 0.0
    assert keys_of(receiver.events) == ["1", "2", "3"]
    for spool in (dead, living, heir):
        spool.close()


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RecordsError, match=r"records cannot wait in .*SERVING_RECORD_SPOOL"):
        Spool(file, max_bytes=1_000)


def gauge(label: str, name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"model": "churn", "version": "7", "predictor": label})


def sink_of(receiver: EventReceiver, spool: Spool, label: str) -> EventSink:
    return EventSink(receiver.url, SOURCE, spool, metrics_of(label), flush_s=0.0)


def test_what_waits_for_the_sink_is_a_metric_beside_its_limit(tmp_path: Path) -> None:
    with event_receiver() as gone:
        pass
    sink = sink_of(gone, Spool(tmp_path, max_bytes=50_000), "spooled")
    assert gauge("spooled", "serving_record_spool_bytes") == 0
    assert gauge("spooled", "serving_record_spool_limit_bytes") == 50_000
    sink.write(records_of(1, 2))
    sink.tick()
    waiting = sum(path.stat().st_size for path in tmp_path.rglob("*.json"))
    assert gauge("spooled", "serving_record_spool_bytes") == waiting > 0
    sink.close()
    # Nobody observes them any more: a value that stays would be an alert for ever.
    assert gauge("spooled", "serving_record_spool_bytes") == gauge("spooled", "serving_record_spool_limit_bytes") == 0
    assert list(tmp_path.rglob("*.json"))


def test_what_is_sent_waits_no_more(receiver: EventReceiver, tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=50_000)
    sink = sink_of(receiver, spool, "emptied")
    sink.write(records_of(1))
    sink.tick()
    assert eventually(lambda: not spool.files() and spool.size_bytes == 0)
    sink.tick()
    assert gauge("emptied", "serving_record_spool_bytes") == 0
    sink.close()


def test_a_full_disk_costs_only_what_it_refused_and_all_of_it_is_counted(
    receiver: EventReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, max_bytes=1_000_000)
    sink = sink_of(receiver, spool, "disk")
    put = spool.put
    answers: list[Exception | None] = [OSError(28, "No space left on device"), TypeError("no JSON"), None]

    def refusing(content: bytes, rows: int) -> bool:
        if error := answers.pop(0):
            raise error
        return put(content, rows)

    monkeypatch.setattr(spool, "put", refusing)
    sink.write(records_of(1, 2))
    sink.write(records_of(3))
    sink.write(records_of(4))
    with pytest.raises(OSError, match="No space left"):
        sink.tick()
    assert eventually(lambda: counted("disk", "written") == 1)
    sink.close()
    assert keys_of(receiver.events) == ["4"]
    assert (counted("disk", "failed"), counted("disk", "written")) == (3, 1)


def test_a_file_that_could_not_be_written_leaves_nothing_behind(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        spool.put(b"x", 1)
    assert [path.name for path in spool._own.iterdir()] == ["lock"]
    assert (spool.size_bytes, spool.rows) == (0, 0)


def test_what_a_smaller_spool_has_no_room_for_is_counted_as_dropped(receiver: EventReceiver, tmp_path: Path) -> None:
    dead = Spool(tmp_path, max_bytes=100_000)
    fill(dead, 1)
    fill(dead, 2, 3)
    limit = dead.files()[0].size_bytes
    dead._lock.close()  # what the kernel does when a process dies
    sink = sink_of(receiver, Spool(tmp_path, max_bytes=limit), "smaller")
    assert eventually(lambda: counted("smaller", "written") == 1)
    sink.close()
    assert keys_of(receiver.events) == ["1"]
    assert (counted("smaller", "dropped"), counted("smaller", "written")) == (2, 1)
