"""The access log and the context of a request, against a collector where spans matter."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from custom_runtime.network.observing import RequestObserver, request_context
from custom_runtime.server.logs import JsonFormatter
from custom_runtime.tracing import current_trace, read_tracing
from tests.support.otlp_collector import otlp_collector


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    """What is logged, as the server logs it: with the bound variables."""
    captured: list[dict[str, object]] = []

    def keep(_logger: object, _name: str, event: dict[str, object]) -> str:
        captured.append(json.loads(json.dumps(event)))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, keep],  # type: ignore[list-item]
        cache_logger_on_first_use=False,
    )
    yield captured
    structlog.configure(**before)


def test_the_access_log_has_one_line_for_each_request(lines: list[dict[str, object]]) -> None:
    observer = RequestObserver(None, access_log=True)
    request = observer.begin("rest", "POST", "/predict", request_id="r-1", client="10.0.0.7", age_s=0.25)
    assert request.traceparent == ""
    request.end(503, code="overloaded", received_bytes=19, sent_bytes=80)
    request.end(200)  # ends once
    (line,) = lines
    duration_ms = line.pop("duration_ms")
    assert isinstance(duration_ms, float)
    assert duration_ms >= 250
    assert line == {
        "event": "request", "protocol": "rest", "method": "POST", "path": "/predict", "client": "10.0.0.7",
        "request_id": "r-1", "status": 503, "code": "overloaded", "received_bytes": 19, "sent_bytes": 80,
    }  # fmt: skip


def test_without_an_access_log_nothing_is_logged(lines: list[dict[str, object]]) -> None:
    RequestObserver(None, access_log=False).begin("rest", "GET", "/").end(200)
    assert lines == []


def test_a_long_path_is_cut(lines: list[dict[str, object]]) -> None:
    RequestObserver(None, access_log=True).begin("rest", "GET", "/" + "a" * 5000).end(404)
    assert len(str(lines[0]["path"])) == 256


async def test_every_line_of_a_request_carries_its_id_and_no_other_line_does(lines: list[dict[str, object]]) -> None:
    log = structlog.get_logger()

    async def work() -> None:
        await asyncio.sleep(0)
        log.info("inside a task")

    with request_context("r-2"):
        log.info("inside")
        task = asyncio.create_task(work())
    log.info("outside")
    await task
    assert [(line["event"], line.get("request_id")) for line in lines] == [
        ("inside", "r-2"), ("outside", None), ("inside a task", "r-2"),
    ]  # fmt: skip


def test_library_lines_carry_the_id_too() -> None:
    record = logging.LogRecord("redis", logging.WARNING, "", 0, "slow", None, None)
    with request_context("r-3"):
        assert json.loads(JsonFormatter().format(record))["request_id"] == "r-3"
    assert "request_id" not in json.loads(JsonFormatter().format(record))


def test_spans_and_lines_find_each_other(lines: list[dict[str, object]]) -> None:
    with otlp_collector() as collector:
        observer = RequestObserver(read_tracing(collector.address, service="churn"), access_log=True)
        predict = observer.begin("rest", "POST", "/predict", route="/predict", request_id="r-4")
        with predict.active():
            assert current_trace() is predict.trace
            structlog.get_logger().info("inside")
        predict.end(200)
        infer = observer.begin("grpc", "POST", "/inference.GRPCInferenceService/ModelInfer")
        infer.end(503, code="store_unavailable")
        page = observer.begin("rest", "GET", "/no/such/path")
        page.end(404, code="not_found")
        observer.close()
        names = ("POST /predict", "inference.GRPCInferenceService/ModelInfer", "GET")
        spans = {span.name: span for span in collector.wait(names)}
    assert current_trace() is None
    inside, end_of_predict = lines[0], lines[1]
    assert inside["trace_id"] == end_of_predict["trace_id"] == spans["POST /predict"].trace_id
    assert spans["POST /predict"].attributes == {
        "http.request.method": "POST", "url.path": "/predict", "http.route": "/predict", "request.id": "r-4",
        "http.response.status_code": 200,
    }  # fmt: skip
    assert spans["inference.GRPCInferenceService/ModelInfer"].attributes["rpc.method"] == "ModelInfer"
    assert [span.is_error for span in spans.values()] == [False, True, False]
    assert not spans["GET"].is_error
