"""What MLPerf LoadGen says at the end of a run, read from its mlperf_log_summary.txt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import MeasurementError

NS_PER_MS = 1e6
FILE = "mlperf_log_summary.txt"


@dataclass(frozen=True, slots=True)
class Summary:
    """LoadGen's verdict. Latencies in ms, counted from each query's scheduled arrival, whenever it was sent."""

    valid: bool
    reasons: tuple[str, ...]
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
            reasons=_reasons(text),
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


def _reasons(text: str) -> tuple[str, ...]:
    """Return which of LoadGen's conditions failed, in its own words."""
    failed = re.findall(
        r"^\s*(Performance constraints|Min duration|Min queries|Early stopping) satisfied\s*: N", text, re.M
    )
    words = {
        "Performance constraints": "P99 is beyond the bound",
        "Min duration": "the run ended early: too many requests were waiting",
        "Min queries": "too few requests",
        "Early stopping": "too few requests under the bound to be sure of P99 with 99 % confidence",
    }
    return tuple(words[name] for name in failed)
