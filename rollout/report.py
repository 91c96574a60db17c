"""What a person reads after a rollout: one HTML page from its log, with nothing to load and nothing to run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from rollout import charts
from rollout.counts import SLO_EDGE_MS, ZERO
from rollout.drawing import Clock, duration
from rollout.errors import ReportError
from rollout.figures import rows, tiles
from rollout.record import Record, read
from rollout.timeline import Timeline, timeline
from rollout.verdict import GateResult
from rollout.wording import evidence, message

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
_ENVIRONMENT.filters |= {"evidence": evidence, "message": message}


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
        tiles=list(tiles(line)),
        rows=[row for stage in line.stages for row in rows(stage, line)],
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


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
