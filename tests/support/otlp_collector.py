"""An OpenTelemetry collector for tests: receives spans over OTLP's gRPC and keeps them."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.programs import GUARD_S

_EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True)
class Span:
    """A span as it came. Ids in hex; parent "": a root. times of the system's clock, in ns."""

    name: str
    trace_id: str
    id: str
    parent: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: dict[str, Any]
    service: str


@dataclass
class Collector:
    """The received spans."""

    address: str = ""
    spans: list[Span] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, names: tuple[str, ...], *, trace_id: str | None = None, limit_s: float = GUARD_S) -> list[Span]:
        """Wait until a span of each name is there (of one trace, if given); return all spans of it."""
        deadline_s = time.monotonic() + limit_s
        with self._news:
            while True:
                found = [span for span in self.spans if trace_id in (None, span.trace_id)]
                if {span.name for span in found} >= set(names):
                    return found
                left_s = deadline_s - time.monotonic()
                assert left_s > 0, f"no {names} within {limit_s:g} s, but {[span.name for span in found]}"
                self._news.wait(left_s)

    def export(self, request: ExportTraceServiceRequest, _context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        """Answer an export."""
        with self._news:
            for resource in request.resource_spans:
                service = _values(resource.resource.attributes)["service.name"]
                self.spans += [_read(span, service) for scope in resource.scope_spans for span in scope.spans]
            self._news.notify_all()
        return ExportTraceServiceResponse()


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_EXPORT, {"Export": handler}),))
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait(GUARD_S)


def _read(span: Any, service: str) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        _values(span.attributes),
        service,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}
