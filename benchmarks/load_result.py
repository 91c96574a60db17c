"""What an open-loop load test found: while it runs, and in the end, with the reasons to believe it or not."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from benchmarks.summary import Summary

# The client is called the bottleneck beyond any of these.
CPU_LIMIT = 0.95
LAG_MEAN_LIMIT_MS = 1.0
LAG_P99_LIMIT_MS = 5.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What happened. latency_ms: each request's time from being issued to its answer; issued_s: since the start."""

    qps: float
    summary: Summary
    requests: int
    errors: dict[str, int]
    example: str
    client_cpu: float
    lag_mean_ms: float
    lag_p99_ms: float
    issued_s: array[float] = field(repr=False)
    latency_ms: array[float] = field(repr=False)

    @property
    def failures(self) -> int:
        """How many requests ended in an error."""
        return sum(self.errors.values())

    @property
    def valid(self) -> bool:
        """LoadGen's verdict, and no error."""
        return self.summary.valid and not self.failures

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is INVALID; empty when it is VALID."""
        share = f"{self.failures} of {self.requests} requests failed"
        return ((share,) if self.failures else ()) + self.summary.reasons

    @property
    def bottleneck(self) -> str | None:
        """Why the client, and not the server, set these figures; None when it did not."""
        if self.client_cpu >= CPU_LIMIT:
            return f"the client used {self.client_cpu:.0%} of a core"
        if self.lag_mean_ms > LAG_MEAN_LIMIT_MS or self.lag_p99_ms > LAG_P99_LIMIT_MS:
            return f"the client sent {self.lag_mean_ms:.2f} ms late on average, {self.lag_p99_ms:.2f} ms at P99"
        return None


@dataclass(frozen=True, slots=True)
class Progress:
    """A running test: seconds since it began, requests done, errors so far, and the latencies since the last report."""

    elapsed_s: float
    requests: int
    failures: int
    recent_ms: array[float]
