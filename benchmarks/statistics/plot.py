"""The plot of docs/statistics.md: the matrix beside what the gates did before, and the curve of the choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.statistics.matrix import Cell, Point

BEFORE: Final = {
    "independent requests": 0.0,
    "pods differ for good, icc 0.0001": 0.061,
    "pods differ for good, icc 0.0003": 0.177,
    "pods differ for good, icc 0.001": 0.316,
    "pods differ for good, icc 0.01": 0.413,
    "noise per pod and 10 s, icc 0.01": 0.124,
    "whole-pod pauses of 0.2-0.5 s": 0.186,
    "cold canary pods": 0.705,
}
"""False rollbacks of the gates that counted requests, in this simulation: 2+2 pods, 1,000 requests/s, 1,000 runs."""
GOAL: Final = 0.05


def draw(cells: Sequence[Cell], points: Sequence[Point], file: Path) -> None:
    """Draw both panels into a file."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(3, 2), layout="constrained")
    names = list(BEFORE)
    variants = [(2, 100), (2, 1000), (10, 100), (10, 1000)]
    height = 0.16
    for row, name in enumerate(names):
        left.barh(row, BEFORE[name], height=0.8, color="#dddddd", label="before, 2+2, 1,000/s" if row == 0 else None)
    for index, (pods, rps) in enumerate(variants):
        found = {one.world.name: one for one in cells if (one.world.pods, one.world.rps) == (pods, rps)}
        rows = [row + (index - 1.5) * height for row in range(len(names))]
        false = [found[name].false if name in found else 0.0 for name in names]
        broken = [found[name].broken if name in found else 0.0 for name in names]
        bars = left.barh(rows, false, height=height, label=f"{pods}+{pods}, {rps:,}/s")
        colour = bars[0].get_facecolor()
        left.barh(rows, broken, left=false, height=height, fill=False, edgecolor=colour, hatch="////", linewidth=0.5)
    left.axvline(GOAL, color="black", linestyle="--", linewidth=1)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("A/A rollouts rolled back falsely (dashed: the goal, 5 %); hatched: rightly, objective broken")
    left.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    left.legend(loc="lower right", fontsize="small")
    for pods in (2, 3, 10):
        right.plot(
            [one.false for one in points],
            [one.threefold[pods] for one in points],
            marker="o",
            label=f"{pods}+{pods} pods",
        )
    for one in points:
        right.annotate(
            f"{one.pods_differ:g}", (one.false, one.threefold[2]), textcoords="offset points", xytext=(4, -10)
        )
    right.axvline(GOAL, color="black", linestyle="--", linewidth=1)
    right.set_xlabel("false rollbacks in the worst world, 2+2 pods")
    right.set_ylabel("three times the errors found in ten minutes")
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_title("power against robustness, by pods_differ", fontsize="medium")
    right.legend(fontsize="small")
    figure.savefig(file, dpi=110)
    plt.close(figure)
