"""Observes one request: its trace, its line in the access log, and its id in the log lines that it causes.

Off is the default, and costs the protocols one comparison for each request: they have no observer then.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import structlog

from custom_runtime.tracing import RequestTrace, Tracing, active, originating, read_tracing

log = structlog.get_logger()

# Paths go into log lines and spans as clients sent them.
_LONGEST_PATH = 256


class RequestObserver:
    """Begins the observation of requests. tracing: None: no spans; access_log: one line for each request."""

    def __init__(self, tracing: Tracing | None, *, access_log: bool) -> None:
        self.tracing = tracing
        self.access_log = access_log

    def begin(
        self,
        protocol: str,
        method: str,
        path: str,
        *,
        route: str | None = None,
        request_id: str = "",
        traceparent: str = "",
        client: str = "",
        age_s: float = 0.0,
    ) -> ObservedRequest:
        """Begin to observe a request that arrived age_s ago.

        protocol: "rest" or "grpc". route: the path as one of a few, where it is known; it names the span.
        """
        path = path[:_LONGEST_PATH]
        trace = None
        if self.tracing is not None:
            name, attributes = _describe(protocol, method, path, route)
            if request_id:
                attributes["request.id"] = request_id
            trace = self.tracing.begin(name, traceparent, attributes, age_s=age_s)
        facts = {"protocol": protocol, "method": method, "path": path, "client": client, "request_id": request_id}
        started_s = time.perf_counter() - age_s
        return ObservedRequest(facts, trace, started_s, is_logged=self.access_log, traceparent=traceparent)

    def close(self) -> None:
        """Export the last spans."""
        if self.tracing is not None:
            self.tracing.close()


def read_observer(collector: str | None, *, service: str, version: str, access_log: bool) -> RequestObserver | None:
    """Return the observer that the settings ask for; None: nothing is observed."""
    tracing = read_tracing(collector, service=service, version=version)
    return RequestObserver(tracing, access_log=access_log) if tracing is not None or access_log else None


class ObservedRequest:
    """One request under observation; it ends once."""

    __slots__ = ("_facts", "_given_traceparent", "_is_logged", "_is_over", "_started_s", "trace")

    def __init__(
        self,
        facts: dict[str, str],
        trace: RequestTrace | None,
        started_s: float,
        *,
        is_logged: bool,
        traceparent: str = "",
    ) -> None:
        self._facts = facts
        self._given_traceparent = traceparent
        self._started_s = started_s
        self._is_logged = is_logged
        self._is_over = False
        self.trace = trace

    @property
    def traceparent(self) -> str:
        """What the answer's header of that name says; "" where nothing is traced."""
        return "" if self.trace is None else self.trace.traceparent

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Make the request the one that spans and log lines of a block belong to, and of the tasks that begin in it."""
        return request_context(
            self._facts["request_id"], self.trace, traceparent=self.traceparent or self._given_traceparent
        )

    def end(self, status: int, *, code: str = "", received_bytes: int = 0, sent_bytes: int = 0) -> None:
        """End with an HTTP status (over gRPC the one its error maps to) and the code of the error table."""
        if self._is_over:
            return
        self._is_over = True
        trace, facts = self.trace, self._facts
        if trace is not None:
            attributes = {"http.response.status_code": status} if facts["protocol"] == "rest" else {"status": status}
            trace.end(attributes, error=(code or str(status)) if status >= 500 else "")
        if self._is_logged:
            known = {name: value for name, value in facts.items() if value}
            if code:
                known["code"] = code
            if trace is not None:
                known["trace_id"] = trace.trace_id
            log.info(
                "request",
                **known,
                status=status,
                duration_ms=round((time.perf_counter() - self._started_s) * 1000, 3),
                received_bytes=received_bytes,
                sent_bytes=sent_bytes,
            )


@contextlib.contextmanager
def request_context(request_id: str, trace: RequestTrace | None = None, *, traceparent: str = "") -> Iterator[None]:
    """Put a request's id, and its trace's, into the log lines and records of a block and the tasks that begin in it."""
    bound = {"request_id": request_id} if request_id else {}
    if trace is not None:
        bound["trace_id"] = trace.trace_id
    with structlog.contextvars.bound_contextvars(**bound), active(trace), originating(request_id, traceparent):
        yield


def _describe(protocol: str, method: str, path: str, route: str | None) -> tuple[str, dict[str, str]]:
    """Return a span's name and attributes, in the words of OpenTelemetry's semantic conventions."""
    if protocol == "grpc":
        service, _, name = path.strip("/").rpartition("/")
        return path.strip("/"), {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    attributes = {"http.request.method": method, "url.path": path}
    if route is None:
        return method or "HTTP", attributes
    return f"{method} {route}", {**attributes, "http.route": route}
