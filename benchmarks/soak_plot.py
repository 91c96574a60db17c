"""The picture of a soak test: what was answered, and what the service held, with the faults behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.soak_fault import KILL, PAUSE, ROLL
from benchmarks.soak_result import SoakResult

COLOURS = {KILL: "#c0392b", PAUSE: "#e67e22", ROLL: "#1b6ca8"}


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
