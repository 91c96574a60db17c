"""Traces: one span for each request, with the store fetch and the scoring below it, exported over OTLP.

MLServer's setting `tracing_server` names the collector (host:port of its OTLP gRPC port). The only module that knows
OpenTelemetry, which it imports when tracing begins. A request joins the trace of its W3C `traceparent`; the variables
OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and OTEL_BSP_* work as OpenTelemetry documents them.

A batch answers several requests with one fetch and one scoring call: each of them gets spans of its own for both, with
the batch's times, so that no trace depends on another's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

Attributes = Mapping[str, str | int | float | bool]

FETCH, SCORE = "feature_store.fetch", "scoring"
# The longest wait for the collector at the end of the process.
_FLUSH_S = 2.0


class Trace(Protocol):
    """What the predictor needs of a trace."""

    def record(self, name: str, start_ns: int, attributes: Attributes) -> None:
        """Add a step that began at start_ns (of time.time_ns()) and has just ended."""


class RequestTrace:
    """The span of one request."""

    __slots__ = ("_context", "_is_recording", "_span", "_tracer", "trace_id", "traceparent")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)
        self._is_recording = span.is_recording()
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        # What the answer carries: the caller finds the trace by it, whether or not it began one.
        self.traceparent = f"00-{self.trace_id}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def record(self, name: str, start_ns: int, attributes: Attributes) -> None:
        """See Trace."""
        self.record_until(name, start_ns, time.time_ns(), attributes)

    def record_until(self, name: str, start_ns: int, end_ns: int, attributes: Attributes) -> None:
        """Add a step with both its times."""
        if self._is_recording:  # not sampled: nothing is kept
            span = self._tracer.start_span(name, self._context, start_time=start_ns, attributes=attributes)
            span.end(end_ns)

    def end(self, attributes: Attributes, *, error: str = "") -> None:
        """End the request; error: the code of a failure of this server (an error of the caller is none)."""
        if self._is_recording:
            from opentelemetry.trace import StatusCode

            self._span.set_attributes(attributes)
            if error:
                self._span.set_attribute("error.type", error)
                self._span.set_status(StatusCode.ERROR)
        self._span.end()


class SharedTrace:
    """The traces of the requests of one batch: each step is recorded in all of them, with the same times."""

    def __init__(self, traces: Iterable[RequestTrace]) -> None:
        self._traces = tuple(traces)

    def record(self, name: str, start_ns: int, attributes: Attributes) -> None:
        """See Trace."""
        end_ns = time.time_ns()
        attributes = {**attributes, "batch.requests": len(self._traces)}
        for trace in self._traces:
            trace.record_until(name, start_ns, end_ns, attributes)


class RequestOrigin(NamedTuple):
    """What a request says of itself beside its body, for the records of its predictions; "" where it says nothing."""

    request_id: str
    traceparent: str


# Of W3C's version 00 it has 55 characters; a longer one is no traceparent, and it goes into records as it came.
_LONGEST_TRACEPARENT = 128
# Where the request that this code works for came from; None: it does not say.
_ORIGIN: ContextVar[RequestOrigin | None] = ContextVar("serving_origin", default=None)
current_origin = _ORIGIN.get
# The trace of the request that this code works for; None: none is traced.
_CURRENT: ContextVar[RequestTrace | None] = ContextVar("serving_trace", default=None)
current_trace = _CURRENT.get


@contextmanager
def originating(request_id: str, traceparent: str) -> Iterator[None]:
    """Make a request the current one for a block, and for the tasks that begin in it."""
    traceparent = traceparent if len(traceparent) <= _LONGEST_TRACEPARENT else ""
    token = _ORIGIN.set(RequestOrigin(request_id, traceparent))
    try:
        yield
    finally:
        _ORIGIN.reset(token)


@contextmanager
def active(trace: RequestTrace | None) -> Iterator[None]:
    """Make a trace the current one for a block, and for the tasks that begin in it."""
    token = _CURRENT.set(trace)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class Tracing:
    """Begins the spans of requests and exports them, on a thread of OpenTelemetry's."""

    def __init__(self, processor: SpanProcessor, *, service: str, version: str = "") -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider

        resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("custom_runtime")

    def begin(self, name: str, traceparent: str, attributes: Attributes, *, age_s: float = 0.0) -> RequestTrace:
        """Begin a request's span, `age_s` ago.

        traceparent: the header as it came; "" or an invalid one begins a new trace.
        """
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({"traceparent": traceparent}) if traceparent else None
        start_ns = time.time_ns() - int(age_s * 1e9)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes=attributes, start_time=start_ns)
        return RequestTrace(self._tracer, span)

    def close(self) -> None:
        """Export what is left, and end the thread; a collector that does not answer is not waited for."""
        self._provider.force_flush(int(_FLUSH_S * 1000))
        self._provider.shutdown()


def read_tracing(collector: str | None, *, service: str, version: str = "") -> Tracing | None:
    """Return the tracing that MLServer's `tracing_server` asks for; None: it is off.

    The connection has no TLS, as MLServer makes it, except where the address begins with https://.
    """
    if not collector:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=collector, insecure=not collector.startswith("https://"))
    return Tracing(BatchSpanProcessor(exporter), service=service, version=version)
