"""Arranges a rollout's log for reading: windows of time, steps, decisions, the outcome and the gates' results.

Results with the same text are grouped, so that a page does not repeat them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rollout.analysis.counts import ZERO, Counts
from rollout.analysis.verdict import GateResult, Verdict, combine
from rollout.engine.record import SAMPLE, Record

MOST_WINDOWS = 120


@dataclass(frozen=True, slots=True)
class Window:
    """The counts of each predictor between two moments, the weights, and the gates' results at the end."""

    start_s: float
    end_s: float
    step: int | None
    weights_percent: Mapping[str, int]
    counts: Mapping[str, Counts]
    verdicts: tuple[GateResult, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """One whole step of the rollout: its windows joined."""

    step: int
    weight_percent: int
    start_s: float
    end_s: float
    counts: Mapping[str, Counts]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Everything that the page shows. `final` is the record with the current state of the rollout."""

    records: tuple[Record, ...]
    windows: tuple[Window, ...]
    stages: tuple[Stage, ...]
    final: Record
    decisive: tuple[GateResult, ...] = field(default=())

    @property
    def decisions(self) -> tuple[Record, ...]:
        """The records at which something changed."""
        return tuple(record for record in self.records if record.event != SAMPLE)

    @property
    def start_s(self) -> float:
        """The time of the first line."""
        return self.records[0].at_s

    @property
    def end_s(self) -> float:
        """When the last line was written."""
        return max(self.records[-1].at_s, self.start_s + 1.0)


def timeline(records: Sequence[Record]) -> Timeline:
    """Arrange the records of one rollout, oldest first; there must be at least one."""
    over = [record for record in records if record.phase in ("Succeeded", "RolledBack", "Failed")]
    final = over[-1] if over else records[-1]
    windows = _windows(records)
    failed = [record for record in records if combine(record.verdicts) is Verdict.FAIL]
    held = next((record.verdicts for record in reversed(records) if record.verdicts), ())
    return Timeline(tuple(records), _thinned(windows), _stages(windows, final.canary), final, _open(failed, held))


def quantile_edge_ms(latency: Sequence[int], share: float, edges_ms: Sequence[float]) -> float:
    """Return the upper edge of the bucket that holds the quantile, infinity in the last; NaN without requests.

    Never interpolated: the distribution within a bucket is unknown.
    """
    wanted, seen = share * sum(latency), 0
    if not wanted:
        return math.nan
    for edge, count in zip((*edges_ms, math.inf), latency, strict=True):
        seen += count
        if count and seen >= wanted:
            return edge
    return math.nan


def _open(failed: Sequence[Record], held: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
    """Select the results that explain the end: the failures, or else what has not passed yet."""
    if failed:
        return tuple(result for result in failed[-1].verdicts if result.verdict is Verdict.FAIL)
    return tuple(result for result in held if result.verdict is not Verdict.PASS and not result.dry_run)


def _windows(records: Sequence[Record]) -> tuple[Window, ...]:
    known = dict(records[0].counts)
    windows = []
    for before, record in pairwise(records):
        counts = {name: _gain(known.get(name, ZERO), now) for name, now in record.counts.items()}
        known.update(record.counts)
        windows.append(
            Window(before.at_s, record.at_s, before.step, before.weights_percent, counts, record.verdicts, before.title)
        )
    return tuple(windows)


def _gain(before: Counts, now: Counts) -> Counts:
    try:
        return now - before
    except ValueError:  # another promoter continued the rollout: its source counts from zero
        return now


def _thinned(windows: Sequence[Window]) -> tuple[Window, ...]:
    """Join adjacent windows of one step until there are few enough to draw."""
    if not windows:
        return ()
    shortest_s = (windows[-1].end_s - windows[0].start_s) / MOST_WINDOWS
    joined = [windows[0]]
    for window in windows[1:]:
        last = joined[-1]
        same = (last.step, last.weights_percent) == (window.step, window.weights_percent)
        if same and last.end_s - last.start_s < shortest_s:
            joined[-1] = _join(last, window)
        else:
            joined.append(window)
    return tuple(joined)


def _join(one: Window, other: Window) -> Window:
    names = (*one.counts, *(name for name in other.counts if name not in one.counts))
    counts = {name: one.counts.get(name, ZERO) + other.counts.get(name, ZERO) for name in names}
    verdicts = other.verdicts or one.verdicts
    return Window(one.start_s, other.end_s, one.step, one.weights_percent, counts, verdicts, one.title)


def _stages(windows: Sequence[Window], canary: str) -> tuple[Stage, ...]:
    stages: dict[int, Window] = {}
    for window in windows:
        if window.step is not None:
            known = stages.get(window.step)
            stages[window.step] = _join(known, window) if known else window
    return tuple(_stage(step, window, window.weights_percent.get(canary, 0)) for step, window in sorted(stages.items()))


def _stage(step: int, window: Window, percent: int) -> Stage:
    return Stage(step, percent, window.start_s, window.end_s, window.counts, window.title or f"{percent} %")


@dataclass(frozen=True, slots=True)
class GateSummary:
    """The result of one gate, or of several with the same text."""

    verdict: str
    gates: tuple[str, ...]
    reason: str


def evidence(results: Sequence[GateResult]) -> list[GateSummary]:
    """Arrange results for reading: the worst first, equal reasons once; after a doubt, passes are only named."""
    order = (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE, Verdict.PASS)
    doubt = any(result.verdict is not Verdict.PASS for result in results)
    groups: dict[tuple[Verdict, str], list[str]] = {}
    for result in sorted(results, key=lambda result: order.index(result.verdict)):
        reason = "" if doubt and result.verdict is Verdict.PASS else result.reason
        name = f"{result.name} (dry run)" if result.dry_run else result.name
        groups.setdefault((result.verdict, reason), []).append(name)
    return [GateSummary(verdict.value, tuple(names), reason) for (verdict, reason), names in groups.items()]


def message(record: Record) -> str:
    """Return a decision's message without the text that the gates' own lines repeat."""
    words = record.message
    named: dict[str, list[str]] = {}
    for result in record.verdicts:
        named.setdefault(result.reason, []).append(re.escape(result.name))
    for reason, names in named.items():
        # `errors` ends the name `slo_errors`: only whole names are removed. Gates with one reason are named together.
        name = f"(?:{'|'.join(names)})"
        words = re.sub(rf"(?<!\w){name}(?:, {name})*: {re.escape(reason)}", "", words)
    return re.sub(r"\s*\([;\s]*\)|[;\s]+$|^[;\s]+|;\s*(?=;)", "", words)
