"""Tracing against a collector that speaks OTLP."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from custom_runtime.tracing import FETCH, SharedTrace, Tracing, active, current_trace, read_tracing
from tests.support.otlp_collector import Collector, otlp_collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER_KIND, INTERNAL_KIND = 2, 1


@pytest.fixture
def collector() -> Iterator[Collector]:
    with otlp_collector() as running:
        yield running


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Tracing]:
    found = read_tracing(collector.address, service="churn", version="7")
    assert found is not None
    yield found
    found.close()


def test_no_collector_no_tracing() -> None:
    assert read_tracing(None, service="churn") is None
    assert read_tracing("", service="churn") is None


def test_a_request_joins_the_trace_of_its_caller(collector: Collector, tracing: Tracing) -> None:
    request = tracing.begin("POST /predict", f"00-{TRACE}-{PARENT}-01", {"url.path": "/predict"}, age_s=1.0)
    request.end({"http.response.status_code": 200})
    tracing.close()
    (span,) = collector.wait(("POST /predict",))
    assert (span.trace_id, span.parent, span.kind) == (TRACE, PARENT, SERVER_KIND)
    assert span.attributes == {"url.path": "/predict", "http.response.status_code": 200}
    assert (span.service, span.is_error) == ("churn", False)
    assert span.end_ns - span.start_ns >= 1e9  # it began when it arrived
    assert request.traceparent == f"00-{TRACE}-{span.id}-01"


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}", "\0"])
def test_without_a_valid_traceparent_a_trace_begins(collector: Collector, tracing: Tracing, header: str) -> None:
    request = tracing.begin("a", header, {})
    request.end({})
    tracing.close()
    (span,) = collector.wait(("a",))
    assert span.parent == ""
    assert span.trace_id == request.trace_id
    assert int(span.trace_id, 16)


def test_what_the_caller_does_not_sample_is_not_exported(collector: Collector, tracing: Tracing) -> None:
    quiet = tracing.begin("quiet", f"00-{TRACE}-{PARENT}-00", {})
    quiet.record(FETCH, time.time_ns(), {})
    quiet.end({}, error="internal")
    tracing.begin("loud", "", {}).end({})
    tracing.close()
    assert [span.name for span in collector.wait(("loud",))] == ["loud"]
    assert quiet.traceparent.startswith(f"00-{TRACE}-")
    assert quiet.traceparent.endswith("-00")


def test_a_step_of_a_batch_is_a_child_in_every_trace_of_it(collector: Collector, tracing: Tracing) -> None:
    requests = [tracing.begin(name, "", {}) for name in ("one", "two")]
    start_ns = time.time_ns()
    SharedTrace(requests).record(FETCH, start_ns, {"batch.rows": 5})
    for request in requests:
        request.end({})
    tracing.close()
    spans = collector.wait(("one", "two", FETCH))
    servers = {span.name: span for span in spans if span.name != FETCH}
    steps = [span for span in spans if span.name == FETCH]
    assert {(step.trace_id, step.parent) for step in steps} == {(span.trace_id, span.id) for span in servers.values()}
    assert {(step.start_ns, step.end_ns) for step in steps} == {(start_ns, steps[0].end_ns)}
    assert all(step.attributes == {"batch.rows": 5, "batch.requests": 2} for step in steps)
    assert {step.kind for step in steps} == {INTERNAL_KIND}


def test_a_failure_of_the_server_is_an_error_of_the_span(collector: Collector, tracing: Tracing) -> None:
    tracing.begin("a", "", {}).end({}, error="store_unavailable")
    tracing.close()
    (span,) = collector.wait(("a",))
    assert span.is_error
    assert span.attributes["error.type"] == "store_unavailable"


async def test_the_current_trace_reaches_the_tasks_that_begin_in_its_block(tracing: Tracing) -> None:
    async def look() -> object:
        await asyncio.sleep(0)
        return current_trace()

    request = tracing.begin("a", "", {})
    with active(request):
        inside = asyncio.create_task(look())
    outside = asyncio.create_task(look())
    assert await inside is request
    assert await outside is None
    request.end({})


def test_a_collector_that_is_not_there_does_not_hold_the_end_of_the_process() -> None:
    found = read_tracing("127.0.0.1:1", service="churn")
    assert found is not None
    found.begin("a", "", {}).end({})
    began_s = time.monotonic()
    found.close()
    assert time.monotonic() - began_s < 15
