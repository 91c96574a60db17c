"""Records as CloudEvents 1.0 over HTTP, in the types of Seldon's request logger, from a bounded spool on disk.

    io.seldon.serving.inference.response    the score, as a V2 response; its `parameters` are the rest of the record
    io.seldon.serving.inference.request     the features as they were scored, as a V2 request; only where recorded

They carry the extension attributes of Seldon's executor (requestid, modelid, inferenceservicename, namespace, endpoint,
protocol). Events are written to the spool first, and a thread of its own sends the oldest file until the sink has
accepted it: each event arrives at least once, with the same id. What the sink refuses for good is dropped, a file or,
where each event is a request of its own, one event; what it refuses for another reason than its events (a wrong token
or address) waits.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
import pyarrow as pa
import structlog
import urllib3

from custom_runtime.active import CONTRACT
from custom_runtime.metrics import ServingMetrics
from custom_runtime.records.spool import Spool, SpooledFile

log = structlog.get_logger()

RESPONSE = "io.seldon.serving.inference.response"
REQUEST = "io.seldon.serving.inference.request"
BATCH_TYPE = "application/cloudevents-batch+json"
# Events of one file, and so of one request to the sink.
BATCH_EVENTS = 500
# One request to the sink.
_TIMEOUT = urllib3.Timeout(connect=2.0, read=10.0)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
# 4xx that say nothing against the events: the same ones may be accepted later, or once a token or an address is put
# right. Any other is for good.
_LATER = frozenset((401, 403, 404, 407, 408, 425, 429))
# What of a record is in its response's parameters.
_PARAMETERS = (
    "row", "inference_id", "key", "key_hash", "source", "features_time", "latency_ms", "challengers", "contract",
)  # fmt: skip
# The longest wait for the sink at the end of the process; what is left is sent after the next start.
_CLOSE_S = 3.0


@dataclass(frozen=True, slots=True)
class EventSource:
    """Who sends. model, predictor: as in the metrics; deployment, namespace: "" where unknown."""

    model: str
    predictor: str
    deployment: str = ""
    namespace: str = ""

    @classmethod
    def from_environment(cls, model: str, predictor: str) -> EventSource:
        """Return the source with what the operator injects: SELDON_DEPLOYMENT_ID, and POD_NAMESPACE where it is set."""
        return cls(model, predictor, os.environ.get("SELDON_DEPLOYMENT_ID", ""), os.environ.get("POD_NAMESPACE", ""))

    def events_of(self, records: pa.RecordBatch) -> Iterator[dict[str, Any]]:
        """Yield the events of some records."""
        for record in records.to_pylist():
            yield self._event(RESPONSE, record, _response(record))
            if record["features"] is not None:
                yield self._event(REQUEST, record, _request(record))

    def _event(self, kind: str, record: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        event_id = str(uuid.uuid4())
        request_id, row = record["request_id"] or event_id, record["row"]
        event = {
            "specversion": "1.0",
            "id": event_id,
            "type": kind,
            "source": f"/{self.model}/{self.predictor}",
            "time": record["time"].isoformat(),
            "datacontenttype": "application/json",
            # The request logger names the rows of a batch like this, and keeps one document for each id.
            "requestid": f"{request_id}-item-{row}" if row else request_id,
            "modelid": self.model,
            "inferenceservicename": self.deployment or self.model,
            "endpoint": self.predictor,
            "protocol": "v2",
            "data": data,
        }
        if self.namespace:
            event["namespace"] = self.namespace
        if record["traceparent"]:
            event["traceparent"] = record["traceparent"]
        return event


def _response(record: Mapping[str, Any]) -> dict[str, Any]:
    scores = record["scores"] if record["score"] is None else [record["score"]]
    parameters = {
        name: record[name].isoformat() if name == "features_time" else record[name]
        for name in _PARAMETERS
        if record[name] is not None
    }
    return {
        "model_name": record["model"],
        "model_version": record["version"],
        "id": record["request_id"],
        "parameters": parameters,
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [1, len(scores)], "data": scores}],
    }


def _request(record: Mapping[str, Any]) -> dict[str, Any]:
    features = record["features"]
    return {
        "id": record["request_id"],
        "parameters": features,
        "inputs": [{"name": "features", "datatype": "FP32", "shape": [1, len(features)], "data": _encoded(features)}],
    }


def _encoded(features: Mapping[str, Any]) -> list[float | None]:
    """Return the row as the model got it: the request logger takes one numeric tensor."""
    return [
        float(feature.codes.index(features[feature.name])) if feature.is_category else features[feature.name]
        for feature in CONTRACT.features
    ]


class EventSink:
    """Sends records to a URL. See `Sink`."""

    def __init__(
        self,
        url: str,
        source: EventSource,
        spool: Spool,
        metrics: ServingMetrics,
        *,
        is_batched: bool = True,
        token: str = "",
        flush_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._spool = spool
        self._metrics = metrics
        self._flush_s = flush_s
        self._clock = clock
        self._flushed_at = clock()
        self._waiting: list[pa.RecordBatch] = []
        metrics.count_records("dropped", spool.deleted_rows)
        metrics.set_record_spool(spool.size_bytes, spool.max_bytes)
        self._sender = Sender(url, spool, metrics, is_batched=is_batched, token=token)
        self._sender.start()

    def write(self, records: pa.RecordBatch) -> None:
        """See Sink."""
        self._waiting.append(records)

    def tick(self) -> None:
        """See Sink."""
        now = self._clock()
        try:
            if now - self._flushed_at >= self._flush_s:
                self._flushed_at = now
                self._flush()
        finally:
            self._metrics.set_record_spool(self._spool.size_bytes, self._spool.max_bytes)

    def close(self) -> None:
        """See Sink."""
        try:
            self._flush()
        finally:
            self._sender.close()
            self._metrics.set_record_spool(0, 0)  # a value that stays would be an alert for ever

    def _flush(self) -> None:
        """Put what waits into the spool. What cannot be put is counted, and does not keep the rest from it."""
        waiting, self._waiting = self._waiting, []
        failure: Exception | None = None
        for records in waiting:
            for start in range(0, records.num_rows, BATCH_EVENTS):
                part = records.slice(start, BATCH_EVENTS)
                try:
                    is_kept = self._spool.put(orjson.dumps(list(self._source.events_of(part))), part.num_rows)
                except Exception as error:
                    self._metrics.count_records("failed", part.num_rows)
                    failure = failure or error
                else:
                    self._metrics.count_records("dropped", 0 if is_kept else part.num_rows)
                time.sleep(0)  # let the event loop have the interpreter lock
        if waiting:
            self._sender.wake()
        if failure is not None:
            raise failure


@dataclass
class Sender:
    """Sends the files of a spool, oldest first, and waits longer from one failure to the next."""

    url: str
    spool: Spool
    metrics: ServingMetrics
    is_batched: bool = True
    token: str = ""
    _failures: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Open the pool of connections; TLS as SSL_CERT_FILE and the system say."""
        self._host = urlsplit(self.url).netloc.rpartition("@")[2]  # logs show no path: it may hold a secret
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        self._pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False, headers=headers)
        self._has_work = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record-events", daemon=True)

    def start(self) -> None:
        """Start the thread; what an earlier process has left in the spool is sent first."""
        self._has_work.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that the spool has files."""
        self._has_work.set()

    def close(self, limit_s: float = _CLOSE_S) -> None:
        """Send what is left, if the sink takes it within limit_s; otherwise it stays in the spool."""
        self._stopping.set()
        self._has_work.set()
        self._thread.join(limit_s)
        self.spool.close()

    def send_all(self) -> float:
        """Send files until none is left or one fails; return how long to wait then, 0 where all was sent."""
        for file in self.spool.files():
            if self._stopping.is_set() and self._failures:
                return 0.0
            refused = self._send(file)
            if refused is None:
                self._failures += 1
                longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 10))
                return longest_s * random.uniform(0.5, 1)  # noqa: S311
            if self._failures:
                log.info("record_sink_available", sink=self._host, waiting_rows=self.spool.rows)
            self._failures = 0
            self.metrics.count_records("failed", refused)
            self.metrics.count_records("written", file.rows - refused)
            self.spool.remove(file)
        return 0.0

    def _run(self) -> None:
        while True:
            self._has_work.wait()
            self._has_work.clear()
            try:
                wait_s = self.send_all()
            except Exception:
                log.exception("record_events_failed")
                wait_s = _LONGEST_WAIT_S
            if self._stopping.is_set():
                return
            if wait_s:
                self._stopping.wait(wait_s)
                self._has_work.set()

    def _send(self, file: SpooledFile) -> int | None:
        """Send one file; return how many of its records the sink has refused for good, None where it is for later."""
        refused: set[int] = set()
        status = 0
        try:
            content = file.path.read_bytes()
            for records, body, headers in _requests(content, file.rows, is_batched=self.is_batched):
                answer = self._pool.request(
                    "POST", self.url, body=body, headers={**self._pool.headers, **headers}, redirect=False
                )
                if answer.status >= 500 or answer.status in _LATER or 300 <= answer.status < 400:
                    self._report("record_sink_unavailable", status=answer.status)
                    return None
                if answer.status >= 400:
                    status = status or answer.status
                    refused.update(records)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._report("record_sink_unavailable", reason=type(error).__name__)
            return None
        if refused:
            self._report("record_sink_refused", status=status, rows=len(refused))
        return len(refused)

    def _report(self, event: str, **facts: Any) -> None:
        if not self._failures:  # the first failure in a row says it
            log.warning(event, sink=self._host, waiting_rows=self.spool.rows, **facts)


def _requests(content: bytes, rows: int, *, is_batched: bool) -> Iterator[tuple[Sequence[int], bytes, dict[str, str]]]:
    """Yield the requests that carry a file's events, all in one or each in its own: its records, body and headers."""
    if is_batched:
        yield range(rows), content, {"content-type": BATCH_TYPE}
        return
    record = -1
    for event in orjson.loads(content):
        record += event["type"] == RESPONSE  # the first event of each record
        data = event.pop("data")
        headers = {"content-type": event.pop("datacontenttype")}
        headers |= {f"ce-{name}": str(value) for name, value in event.items()}
        yield (record,), orjson.dumps(data), headers
