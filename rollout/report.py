"""What a person reads after a rollout: one HTML page from its log, with nothing to load and nothing to run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from rollout import charts
from rollout.counts import SLO_EDGE_MS, ZERO, Counts
from rollout.drawing import Clock, duration
from rollout.errors import ReportError
from rollout.record import Record, read
from rollout.timeline import Stage, Timeline, quantile_edge_ms, timeline
from rollout.verdict import GateResult, Verdict

# How a phase is headed, and its colour class in the template. A phase that is not here is still under way.
_HEADS: Final = {
    "Succeeded": ("Promoted", "good"),
    "RolledBack": ("Rolled back", "bad"),
    "Failed": ("Rollback failed: act now", "bad"),
    "Held": ("Held", "doubt"),
    "Paused": ("Waiting for a person", "doubt"),
}
_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("rollout", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Said:
    """What one gate said, or several with the same words."""

    verdict: str
    gates: tuple[str, ...]
    reason: str


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


def write(log: Path, page: Path | None = None) -> Path:
    """Write the page of a log beside it, or where told, and return its path. Raises ReportError."""
    page = page or log.with_suffix(".html")
    try:
        with log.open(encoding="utf-8") as lines:
            records = read(lines)
    except (OSError, ValueError) as error:
        raise ReportError(f"{log} cannot be read as a rollout's log: {error}") from error
    if not records:
        raise ReportError(f"{log} holds no record; a rollout writes one line for each look")
    fresh = page.with_name(f".{page.name}.{os.getpid()}")
    fresh.write_text(render(records), encoding="utf-8")
    fresh.replace(page)  # whoever has the page open never sees half of it
    return page


def render(records: Sequence[Record]) -> str:
    """Return the page of a rollout's records, oldest first; one at least."""
    line = timeline(records)
    clock = Clock(line.start_s, line.end_s)
    head, mood = _HEADS.get(line.final.phase, ("Under way", "doubt"))
    return _ENVIRONMENT.get_template("report.html.j2").render(
        head=head,
        mood=mood,
        final=line.final,
        started=_moment(line.start_s),
        ended=_moment(line.end_s),
        length=duration(line.end_s - line.start_s),
        start_s=line.start_s,
        weight=line.final.weights_percent.get(line.final.canary, 0),
        decisive=_unsaid(line) if mood != "good" else (),
        tiles=list(_tiles(line)),
        rows=[row for stage in line.stages for row in _rows(stage, line)],
        weights=charts.weights(line, clock),
        errors=_chart(line, clock, "errors", "slo_errors"),
        slow=_chart(line, clock, "slow", "slo_latency"),
        latency=charts.latency(line, clock),
        verdicts=charts.verdicts(line, clock),
        scores=[
            (
                f"{stage.weight_percent} %",
                sum(stage.counts.get(line.final.canary, ZERO).scores),
                charts.scores(stage, line.final.stable, line.final.canary),
            )
            for stage in line.stages
            if any(any(counts.scores) for counts in stage.counts.values())
        ],
        decisions=line.decisions,
        elapsed=lambda at_s: duration(at_s - line.start_s),
        legend=[(verdict.value.replace("_", " "), colour) for verdict, colour in charts.VERDICT_COLOURS.items()],
        stable_colour=charts.STABLE,
        canary_colour=charts.CANARY,
        slo_ms=f"{SLO_EDGE_MS:g}",
    )


def _unsaid(line: Timeline) -> tuple[GateResult, ...]:
    """Return what explains the end and is not in its message already."""
    return tuple(result for result in line.decisive if result.reason not in line.final.message)


def _chart(line: Timeline, clock: Clock, event: str, gate: str) -> str:
    limits = [result.threshold for window in line.windows for result in window.verdicts if result.name == gate]
    return charts.share(line, clock, event, limit=limits[-1] if limits else None)


def _tiles(line: Timeline) -> Iterable[tuple[str, str, str]]:
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


def _rows(stage: Stage, line: Timeline) -> Iterable[Row]:
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


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _evidence(results: Sequence[GateResult]) -> list[Said]:
    """Arrange results for reading: the worst first, equal reasons once; beside a doubt the passes are named only."""
    order = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.PASS)
    doubt = any(result.verdict is not Verdict.PASS for result in results)
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for result in sorted(results, key=lambda result: order.index(result.verdict)):
        reason = "" if doubt and result.verdict is Verdict.PASS else result.reason
        name = f"{result.name} (dry run)" if result.dry_run else result.name
        groups.setdefault((result.verdict, reason), []).append(name)
    return [Said(verdict.value, tuple(names), reason) for (verdict, reason), names in groups.items()]


def _message(record: Record) -> str:
    """Return a decision's words without what the gates' own lines below it say."""
    words = record.message
    for result in record.verdicts:
        words = words.replace(f"{result.name}: {result.reason}", "")
    return re.sub(r"\s*\([;\s]*\)|[;\s]+$|^[;\s]+|;\s*(?=;)", "", words)


_ENVIRONMENT.filters |= {"evidence": _evidence, "message": _message}
