"""What is measured of the process rather than of a model; only our own server exports it, `mlserver start` does not."""

from __future__ import annotations

import asyncio

from prometheus_client import Counter, Gauge

_TASKS = Gauge("churn_event_loop_tasks", "Unfinished tasks of the event loop.", multiprocess_mode="livesum")
_UNAUTHORIZED = Counter("churn_unauthorized", "Requests without a valid bearer token, by protocol.", ("protocol",))


def observe_event_loop() -> None:
    """Set the gauge of tasks; costs some microseconds for each task, so not for each request."""
    _TASKS.set(len(asyncio.all_tasks()))


def count_unauthorized(protocol: str) -> None:
    """Count one refused request; protocol: "rest" or "grpc"."""
    _UNAUTHORIZED.labels(protocol).inc()
