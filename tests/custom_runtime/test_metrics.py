"""Counting many observations at once."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from custom_runtime.metrics import REQUEST_EDGES_S, REQUEST_SECONDS, BatchHistogram, ServingMetrics


def exposed(registry: CollectorRegistry) -> list[str]:
    return [
        line for line in generate_latest(registry).decode().splitlines() if line.startswith(("x_bucket", "x_count"))
    ]


@given(st.lists(st.one_of(st.floats(0, 2), st.sampled_from(REQUEST_EDGES_S)), max_size=40))
def test_many_values_are_counted_as_each_of_them(values: list[float]) -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    each = Histogram("x", "x", ("a",), buckets=REQUEST_EDGES_S, registry=one).labels("b")
    for value in values:
        each.observe(value)
    BatchHistogram("x", "x", ("a",), buckets=REQUEST_EDGES_S, registry=other).labels("b").observe_many(values)
    assert exposed(other) == exposed(one)


def count(predictor: str, code: str) -> float:
    series = REQUEST_SECONDS.labels(model="counted", version="1", predictor=predictor, route="predict", code=code)
    (found,) = [sample.value for sample in series._child_samples() if sample.name == "_count"]
    return float(found)


async def test_answers_of_one_iteration_are_counted_when_it_ends() -> None:
    metrics = ServingMetrics(model="counted", version="1", predictor="loop", store="memory")
    for code in (200, 200, 503):
        metrics.observe_request("predict", code, 0.001)
    await asyncio.sleep(0)
    assert (count("loop", "200"), count("loop", "503")) == (2, 1)
    metrics.observe_request("predict", 200, 0.001)
    await asyncio.sleep(0)
    assert count("loop", "200") == 3


def test_without_an_event_loop_an_answer_is_counted_at_once() -> None:
    metrics = ServingMetrics(model="counted", version="1", predictor="thread", store="memory")
    metrics.observe_request("predict", 200, 0.001)
    assert count("thread", "200") == 1
