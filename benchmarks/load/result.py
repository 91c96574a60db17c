"""The plan, progress and result of an open-loop load test, and how the result is printed as a table or JSON.

The summary and verdict are MLPerf LoadGen's, read from its log. Around it are the errors, the client's own CPU use and
delays, and from them whether the client was the bottleneck.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmarks.errors import MeasurementError
from benchmarks.load.target import Target
from benchmarks.steal import MOST_STOLEN

# LoadGen wants this many requests under the bound before it believes a P99 with 99 % confidence (459, rounded up).
MIN_QUERIES = 512
# Above any of these limits the client counts as the bottleneck.
CPU_LIMIT = 0.95
LAG_MEAN_LIMIT_MS = 1.0
LAG_P99_LIMIT_MS = 5.0
NS_PER_MS = 1e6
FILE = "mlperf_log_summary.txt"


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One test: the requests, their rate and duration. cpu pins the client to one core.

    grpc_processes: how many client processes make the calls; one makes some 3,000 calls/s on a core.
    """

    target: Target
    path: str
    bodies: tuple[bytes, ...]
    is_grpc: bool
    qps: float
    duration_s: float
    bound_ms: float = 50.0
    percentile: float = 0.99
    connections: int = 64
    timeout_s: float = 2.0
    warmup_s: float = 1.0
    seed: int = 0
    cpu: int | None = None
    grpc_processes: int = 2


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A finished test. latency_ms: each request's time from being sent to its answer; issued_s: since the start.

    stolen: the share of the client's machine that its hypervisor gave to another one (benchmarks/steal.py).
    """

    qps: float
    summary: Summary
    requests: int
    errors: dict[str, int]
    example: str
    client_cpu: float
    lag_mean_ms: float
    lag_p99_ms: float
    stolen: float
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
    def verdict(self) -> str:
        """What is shown: PASSED or FAILED."""
        return "PASSED" if self.valid else "FAILED"

    @property
    def bottleneck(self) -> str | None:
        """Why the client, and not the server, determined these figures; None when it did not."""
        if self.client_cpu >= CPU_LIMIT:
            return f"the client used {self.client_cpu:.0%} of a core"
        if self.lag_mean_ms > LAG_MEAN_LIMIT_MS or self.lag_p99_ms > LAG_P99_LIMIT_MS:
            return f"the client sent {self.lag_mean_ms:.2f} ms late on average, {self.lag_p99_ms:.2f} ms at P99"
        return None

    @property
    def disturbance(self) -> str | None:
        """Why another machine determined these figures; None when none did."""
        if self.stolen > MOST_STOLEN:
            return f"another virtual machine got {self.stolen:.0%} of the processor time that this one wanted"
        return None


@dataclass(frozen=True, slots=True)
class Progress:
    """A running test: seconds since it began, requests done, errors so far, and the latencies since the last report."""

    elapsed_s: float
    requests: int
    failures: int
    recent_ms: array[float]


def reasons(plan: LoadPlan, result: LoadResult) -> tuple[str, ...]:
    """Return why a test has failed, with the figures; empty when it has passed."""
    found = []
    if result.failures:
        first = f" (the first: {result.example})" if result.example else ""
        found.append(f"{result.failures:,} of {result.requests:,} requests failed{first}")
    p99_ms, waiting = result.summary.p99_ms, most_waiting(plan)
    words = {
        "Performance constraints": f"P99 is {p99_ms:,.2f} ms, allowed: {plan.bound_ms:g} ms",
        "Min duration": f"stopped early, when {waiting:,} requests were waiting: the service answers fewer than arrive",
        "Min queries": f"{result.requests:,} requests are too few for a P99; measure longer (--duration)",
        "Early stopping": "too few requests to be sure of P99 with 99 % confidence; measure longer (--duration)",
    }
    broken = result.summary.broken
    found += [words[name] for name in broken if name != "Early stopping" or len(broken) == 1]
    return tuple(found)


def verdict(plan: LoadPlan, result: LoadResult) -> str:
    """Return the verdict as one sentence."""
    if not result.valid:
        return f"FAILED: {'; '.join(reasons(plan, result))}"
    within = f"within {result.summary.p99_ms:,.2f} ms (allowed: {plan.bound_ms:g} ms)"
    return f"PASSED: {plan.percentile:.0%} of {result.requests:,} requests were answered {within}, and none failed"


def most_waiting(plan: LoadPlan) -> int:
    """Return how many requests may wait for their answers before a test is stopped: as many as arrive in a second."""
    return max(MIN_QUERIES, int(plan.qps))


def as_json(plan: LoadPlan, result: LoadResult) -> dict[str, Any]:
    """Return what `-o json` prints; latencies in ms, from each request's scheduled arrival."""
    summary = result.summary
    return {
        "valid": result.valid,
        "reasons": list(reasons(plan, result)),
        "target_qps": plan.qps,
        "scheduled_qps": summary.scheduled_qps,
        "achieved_qps": summary.completed_qps,
        "requests": result.requests,
        "errors": result.errors,
        "error_example": result.example,
        "bound_ms": plan.bound_ms,
        "latency_ms": {
            "mean": summary.mean_ms,
            "p50": summary.p50_ms,
            "p90": summary.p90_ms,
            "p99": summary.p99_ms,
            "p99.9": summary.p999_ms,
            "max": summary.max_ms,
        },
        "client": {
            "cpu": round(result.client_cpu, 3),
            "lag_mean_ms": round(result.lag_mean_ms, 3),
            "lag_p99_ms": round(result.lag_p99_ms, 3),
            "bottleneck": result.bottleneck,
            "stolen": round(result.stolen, 3),
        },
    }


def as_table(plan: LoadPlan, result: LoadResult) -> Table:
    """Return the table that is printed after a test."""
    summary = result.summary
    table = Table(title=f"{plan.path} at {plan.qps:,.0f} requests/s (Poisson)", show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("P50", f"{summary.p50_ms:.2f} ms")
    table.add_row("P90", f"{summary.p90_ms:.2f} ms")
    table.add_row("P99", f"{summary.p99_ms:.2f} ms (bound {plan.bound_ms:g} ms)")
    table.add_row("P99.9", f"{summary.p999_ms:.2f} ms")
    table.add_row("slowest", f"{summary.max_ms:.2f} ms")
    table.add_row("scheduled", f"{summary.scheduled_qps:,.1f} requests/s")
    table.add_row("achieved", f"{summary.completed_qps:,.1f} requests/s")
    table.add_row("requests", f"{result.requests:,}")
    errors = ", ".join(f"{count:,} x {label}" for label, count in result.errors.items())
    table.add_row("failed", escape(f"{errors} (the first: {result.example})") if errors else "none")
    table.add_row("client", f"{result.client_cpu:.0%} of a core, {result.lag_mean_ms:.2f} ms late on average")
    return table


class Output(StrEnum):
    """What is printed on stdout."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Summary:
    """LoadGen's verdict. Latencies in ms, counted from each query's scheduled arrival, whenever it was sent.

    broken: which of LoadGen's conditions did not hold, by their names in its log.
    """

    valid: bool
    broken: tuple[str, ...]
    scheduled_qps: float
    completed_qps: float
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


def read_summary(directory: Path) -> Summary:
    """Read the summary in a log directory. Raises MeasurementError when LoadGen wrote none that can be read."""
    try:
        text = (directory / FILE).read_text()
        return Summary(
            valid=_text(text, "Result is") == "VALID",
            broken=_broken(text),
            scheduled_qps=float(_text(text, "Scheduled samples per second")),
            completed_qps=float(_text(text, "Completed samples per second")),
            mean_ms=_ms(text, "Mean latency"),
            p50_ms=_ms(text, "50.00 percentile latency"),
            p90_ms=_ms(text, "90.00 percentile latency"),
            p99_ms=_ms(text, "99.00 percentile latency"),
            p999_ms=_ms(text, "99.90 percentile latency"),
            max_ms=_ms(text, "Max latency"),
        )
    except (OSError, ValueError) as error:
        raise MeasurementError(f"LoadGen's summary cannot be read: {error}") from error


def _text(text: str, label: str) -> str:
    found = re.search(rf"^\s*{re.escape(label)}(?: \(ns\))?\s*:\s*(\S+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"no {label!r} in {FILE}")
    return found.group(1)


def _ms(text: str, label: str) -> float:
    return int(_text(text, label)) / NS_PER_MS


def _broken(text: str) -> tuple[str, ...]:
    failed = r"^\s*(Performance constraints|Min duration|Min queries|Early stopping) satisfied\s*: N"
    return tuple(re.findall(failed, text, re.MULTILINE))
