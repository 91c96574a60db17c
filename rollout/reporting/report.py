"""Writes the report of a rollout: one HTML page from its log, without scripts and external files.

`Page` keeps the page up to date beside the log during the rollout. `tiles` and `rows` compute its key figures and
its table of steps.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from jinja2 import Environment, PackageLoader, StrictUndefined

from rollout.analysis.counts import ZERO, Counts
from rollout.analysis.verdict import GateResult
from rollout.engine.record import SAMPLE, Record, read
from rollout.engine.state import RolloutState
from rollout.errors import ReportError
from rollout.reporting import charts
from rollout.reporting.advice import commands
from rollout.reporting.charts import Clock, duration
from rollout.reporting.timeline import Stage, Timeline, evidence, message, quantile_edge_ms, timeline
from rollout.targets.place import UNKNOWN, Place

# The heading of a phase, and its colour class in the template. Any other phase is still in progress.
_HEADS: Final = {
    "Succeeded": ("Promoted", "good"),
    "RolledBack": ("Rolled back", "bad"),
    "Failed": ("Rollback failed: act now", "bad"),
    "Held": ("Held", "doubt"),
    "Paused": ("Waiting for a person", "doubt"),
}
_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("rollout.reporting", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"evidence": evidence, "message": message, "differs": Record.differs}
log = structlog.get_logger(__name__)


def write(log: Path, page: Path | None = None, *, place: Place = UNKNOWN) -> Path:
    """Write the page of a log beside it, or to `page`, and return its path. place: see `render`. Raises ReportError."""
    page = page or log.with_suffix(".html")
    try:
        with log.open(encoding="utf-8") as lines:
            records = read(lines)
    except (OSError, ValueError) as error:
        raise ReportError(f"{log} cannot be read as a rollout's log: {error}") from error
    if not records:
        raise ReportError(f"{log} holds no record; a rollout writes one line for each look")
    fresh = page.with_name(f".{page.name}.{os.getpid()}")
    fresh.write_text(render(records, place=place), encoding="utf-8")
    fresh.replace(page)  # a reader never sees an incomplete page
    return page


def render(records: Sequence[Record], *, place: Place = UNKNOWN) -> str:
    """Return the page of a rollout's records, oldest first; at least one. place: for the commands that it proposes."""
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
        advice=commands(
            line.final.phase, line.final.deployment, stable=line.final.stable, canary=line.final.canary, place=place
        ),
        decisive=_unsaid(line) if mood != "good" else (),
        tiles=list(tiles(line)),
        rows=[row for stage in line.stages for row in rows(stage, line)],
        weights=charts.weights(line, clock),
        errors=_chart(line, clock, "errors", "slo_errors"),
        slow=_chart(line, clock, "slow", "slo_latency"),
        latency=charts.latency(line, clock),
        verdicts=charts.verdicts(line, clock),
        scores=[
            (
                stage.title,
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
        slo_ms=f"{line.final.scale.slo_ms:g}",
    )


def _unsaid(line: Timeline) -> tuple[GateResult, ...]:
    """Return the results that explain the end and are not in its message already."""
    return tuple(result for result in line.decisive if result.reason not in line.final.message)


def _chart(line: Timeline, clock: Clock, event: str, gate: str) -> str:
    limits = [result.threshold for window in line.windows for result in window.verdicts if result.name == gate]
    return charts.share(line, clock, event, limit=limits[-1] if limits else None)


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class Page:
    """A subscriber that writes the page again after each change; it must be notified after the log.

    So the page exists, and shows the current state, even if the promoter is killed.
    """

    def __init__(self, journal: Path, *, place: Place = UNKNOWN) -> None:
        self._journal = journal
        self._place = place
        self.file = journal.with_suffix(".html")

    def notify(self, record: Record, state: RolloutState) -> None:
        """Write the page, unless the record is one more sample; a failure to write it is only logged."""
        if record.event == SAMPLE:
            return
        try:
            write(self._journal, self.file, place=self._place)
        except (ReportError, OSError) as error:
            log.warning("page_lost", file=str(self.file), detail=str(error))


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one arm in one step."""

    weight: str
    name: str
    role: str
    requests: str
    errors: str
    rejected: str
    slow: str
    p99: str


def tiles(line: Timeline) -> Iterable[tuple[str, str, str]]:
    """Yield a caption, the canary's number and the number to compare it with."""
    stable, canary = (_total(line, name) for name in (line.final.stable, line.final.canary))
    yield "canary requests", f"{canary.requests:,}", f"{stable.requests:,} on {line.final.stable}"
    yield "errors (5xx)", _percent(canary.errors, canary), f"{_percent(stable.errors, stable)} on {line.final.stable}"
    slower = f"slower than {line.final.scale.slo_ms:g} ms"
    yield slower, _percent(canary.slow, canary), f"{_percent(stable.slow, stable)} on {line.final.stable}"
    drift = [result for record in line.records for result in record.verdicts if result.name == "drift"]
    seen = [result for result in drift if result.value is not None]
    if seen:
        yield "score drift", f"{seen[-1].value:.3f} bits", f"{seen[-1].threshold:g} is the limit"
    else:
        yield "score drift", "-", "not measured"


def rows(stage: Stage, line: Timeline) -> Iterable[Row]:
    """Yield the results of both arms in one step, stable first."""
    for role, name in (("stable", line.final.stable), ("canary", line.final.canary)):
        counts = stage.counts.get(name, ZERO)
        edges_ms = line.final.scale.edges_ms
        edge = quantile_edge_ms(counts.latency, 0.99, edges_ms)
        weight = stage.weight_percent if role == "canary" else 100 - stage.weight_percent
        yield Row(
            weight="copies" if role == "canary" and not weight and counts.requests else f"{weight} %",
            name=name,
            role=role,
            requests=f"{counts.requests:,}",
            errors=_count(counts.errors, counts),
            rejected=_count(counts.rejected, counts),
            slow=_count(counts.slow, counts),
            p99="-"
            if math.isnan(edge)
            else f"above {edges_ms[-1]:g} ms"
            if math.isinf(edge)
            else f"\u2264 {edge:g} ms",
        )


def _total(line: Timeline, name: str) -> Counts:
    total = ZERO
    for window in line.windows:
        total += window.counts.get(name, ZERO)
    return total


def _count(hits: int, counts: Counts) -> str:
    return f"{hits:,} ({_percent(hits, counts)})" if hits else "0"


def _percent(hits: int, counts: Counts) -> str:
    if not counts.requests:
        return "-"
    value = 100 * hits / counts.requests
    return "< 0.001 %" if 0 < value < 0.001 else f"{value:.{3 if value >= 10 else 2}g} %"
