"""The result of a soak test: outcomes, samples, faults and complaints; as text, as JSON and as a plot.

A complaint is a reason why the run failed: a lost request, or memory, files or tasks that grew.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.soak.traffic import Outcome

# The pools and buffers of a new worker grow by some 30 MB in its first half minute under load.
SETTLING_S = 30.0
# The allowed growth after that: a leak of 1 kB per request would be 30 MB in the second half of 10 minutes.
GROWTH_MB, GROWTH_FILES, GROWTH_TASKS = 15.0, 8, 8
UNSETTLED_MB = 40.0
ALLOWED = ("200", "503 store_unavailable", "503 overloaded", "gone")
KILL, PAUSE, ROLL = "store killed", "store paused", "workers rolled"
COLOURS = {KILL: "#c0392b", PAUSE: "#e67e22", ROLL: "#1b6ca8"}


class Growth(NamedTuple):
    """How much an average worker grew; allowed_mb is higher where there was no time to settle."""

    memory_mb: float
    files: float
    tasks: float
    allowed_mb: float


@dataclass(slots=True)
class SoakResult:
    """Everything that was observed in a run."""

    workers: int = 2
    sent: int = 0
    inflight_at_end: float = 0.0
    started_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def results(self) -> Counter[str]:
        """How often each result was seen."""
        return Counter(one.result for one in self.outcomes)

    @property
    def lost(self) -> int:
        """How many requests were sent and got no answer."""
        return sum(one.is_lost for one in self.outcomes)

    @property
    def complaints(self) -> list[str]:
        """Why the run failed; empty when it did not."""
        found = []
        if self.sent != len(self.outcomes):
            found.append(f"{self.sent} requests were sent, {len(self.outcomes)} are accounted for")
        found += [f"{count} x {result}" for result, count in self.results.items() if not result.startswith(ALLOWED)]
        if not self.results["200"]:
            found.append("no request was answered with 200")
        growth = self.growth
        for what, grown, allowed in (
            ("MB", growth.memory_mb, growth.allowed_mb),
            ("files", growth.files, GROWTH_FILES),
            ("tasks", growth.tasks, GROWTH_TASKS),
        ):
            if grown > allowed:
                found.append(f"a worker grew by {grown:.0f} {what}; allowed: {allowed:g}")
        if self.inflight_at_end:
            found.append(f"{self.inflight_at_end:g} requests are still in flight; allowed: 0")
        return found

    @property
    def growth(self) -> Growth:
        """How much a worker grew from when all had settled after the last roll until the end."""
        rolled_s = max((fault.to_s for fault in self.faults if fault.kind == ROLL), default=0.0)
        ended_s = self.samples[-1].at_s if self.samples else 0.0
        settled_s = min(rolled_s + SETTLING_S, (rolled_s + ended_s) / 2)
        settled = [one for one in self.samples if one.at_s >= settled_s]
        fifth = len(settled) // 5
        if not fifth:
            return Growth(0.0, 0.0, 0.0, GROWTH_MB)
        early, late = settled[:fifth], settled[-fifth:]
        allowed_mb = GROWTH_MB if settled_s >= rolled_s + SETTLING_S else UNSETTLED_MB
        return Growth(
            median(one.memory_mb for one in late) - median(one.memory_mb for one in early),
            median(one.files for one in late) - median(one.files for one in early),
            median(one.tasks for one in late) - median(one.tasks for one in early),
            allowed_mb,
        )


def as_json(result: SoakResult, plot: Path) -> dict[str, Any]:
    """Return what `-o json` prints; faults from and to seconds after the start."""
    return {
        "sent": result.sent,
        "results": dict(result.results),
        "lost": result.lost,
        "growth": result.growth._asdict(),
        "faults": [fault._asdict() for fault in result.faults],
        "complaints": result.complaints,
        "plot": str(plot),
    }


def as_text(result: SoakResult, plot: Path) -> str:
    """Return the lines for requests and their results, faults, growth, and complaints."""
    growth = result.growth
    lines = [
        f"sent      {result.sent:,} requests: {_counts(result.results)}",
        f"lost      {result.lost:,}",
        f"faults    {len(result.faults)}: {_counts(Counter(fault.kind for fault in result.faults))}",
        f"growth    {growth.memory_mb:.1f} MB (allowed: {growth.allowed_mb:g}), {growth.files:g} files, "
        f"{growth.tasks:g} tasks for each worker",
        f"plot      {plot}",
        f"logs      {plot.parent}",
        *(f"FAILED    {complaint}" for complaint in result.complaints),
    ]
    if not result.complaints:
        lines.append("PASSED    every request was answered or refused as it may be, and no worker grew")
    return "\n".join(lines)


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {what}" for what, count in counted.most_common()) or "none"


def draw(path: Path, result: SoakResult) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    answers, memory, files, tasks = figure.subplots(4, 1, sharex=True)
    lost = sum(one.is_lost for one in result.outcomes)
    figure.suptitle(f"Soak test: {result.sent:,} requests sent, {lost} lost, {len(result.faults)} faults")
    last_s = max((one.sent_s - result.started_s for one in result.outcomes), default=1.0)
    edges = np.arange(0.0, last_s + 1.0)
    for name in sorted(result.results):
        at_s = [one.sent_s - result.started_s for one in result.outcomes if one.result == name]
        answers.plot(edges[:-1], np.histogram(at_s, edges)[0], label=name)
    answers.set_ylabel("results a second")
    at_s = [one.at_s for one in result.samples]
    memory.plot(at_s, [one.memory_mb for one in result.samples])
    memory.set_ylabel("MB, a worker")
    files.plot(at_s, [one.files for one in result.samples])
    files.set_ylabel("other files, a worker")
    tasks.plot(at_s, [one.tasks for one in result.samples])
    tasks.set_ylabel("tasks, a worker")
    tasks.set_xlabel("time, s")
    seen: set[str] = set()
    for fault in result.faults:
        for axes in (answers, memory, files, tasks):
            label = fault.kind if axes is answers and fault.kind not in seen else None
            axes.axvspan(fault.from_s, fault.to_s, color=COLOURS[fault.kind], alpha=0.15, label=label)
        seen.add(fault.kind)
    answers.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize="small", frameon=False, ncols=6)
    for axes in (answers, memory, files, tasks):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


class Fault(NamedTuple):
    """One injected fault and its time (seconds since the start)."""

    kind: str
    from_s: float
    to_s: float


class Sample(NamedTuple):
    """The service at one moment: resident MB, files and event loop tasks of an average worker.

    files: open files, without the connections of this client.
    """

    at_s: float
    memory_mb: float
    files: float
    tasks: float
