"""The numbers of a rollout's report, as a person reads them: the tiles at its top, and a table of the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rollout.counts import SLO_EDGE_MS, ZERO, Counts
from rollout.timeline import Stage, Timeline, quantile_edge_ms


@dataclass(frozen=True, slots=True)
class Row:
    """One arm in one step, in numbers."""

    weight: str
    name: str
    role: str
    requests: str
    errors: str
    rejected: str
    slow: str
    p99: str


def tiles(line: Timeline) -> Iterable[tuple[str, str, str]]:
    """Yield a caption, the canary's number and what to compare it with."""
    stable, canary = (_total(line, name) for name in (line.final.stable, line.final.canary))
    yield "canary requests", f"{canary.requests:,}", f"{stable.requests:,} on {line.final.stable}"
    yield "errors (5xx)", _percent(canary.errors, canary), f"{_percent(stable.errors, stable)} on {line.final.stable}"
    slower = f"slower than {SLO_EDGE_MS:g} ms"
    yield slower, _percent(canary.slow, canary), f"{_percent(stable.slow, stable)} on {line.final.stable}"
    drift = [result for record in line.records for result in record.verdicts if result.name == "drift"]
    seen = [result for result in drift if result.value is not None]
    if seen:
        yield "score drift", f"{seen[-1].value:.3f} bits", f"{seen[-1].threshold:g} is the limit"
    else:
        yield "score drift", "-", "not measured"


def rows(stage: Stage, line: Timeline) -> Iterable[Row]:
    """Yield what both arms did in one step, stable first."""
    for role, name in (("stable", line.final.stable), ("canary", line.final.canary)):
        counts = stage.counts.get(name, ZERO)
        edge = quantile_edge_ms(counts.latency, 0.99)
        weight = stage.weight_percent if role == "canary" else 100 - stage.weight_percent
        yield Row(
            weight=f"{weight} %",
            name=name,
            role=role,
            requests=f"{counts.requests:,}",
            errors=_count(counts.errors, counts),
            rejected=_count(counts.rejected, counts),
            slow=_count(counts.slow, counts),
            p99="-" if math.isnan(edge) else "above 1000 ms" if math.isinf(edge) else f"\u2264 {edge:g} ms",
        )


def _total(line: Timeline, name: str) -> Counts:
    total = ZERO
    for window in line.windows:
        total += window.counts.get(name, ZERO)
    return total


def _count(hits: int, counts: Counts) -> str:
    return f"{hits:,} ({_percent(hits, counts)})" if hits else "0"


def _percent(hits: int, counts: Counts) -> str:
    return f"{100 * hits / counts.requests:.2g} %" if counts.requests else "-"
