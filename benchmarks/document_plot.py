"""docs/benchmarks.png: answers per second of every server, and where the latency bound breaks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import ticker
from matplotlib.figure import Figure

from benchmarks import results
from benchmarks.results import Results
from benchmarks.servers import BARE, PLAIN, PROJECT, REDIS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, CEILING, OTHERS, BAD = "#1b6ca8", "#bdc3c7", "#d98e04", "#c0392b"
BOUND_MS = 50.0


def draw(path: Path, measured: Results) -> None:
    """Write the PNG: three rows of bars, one for each way to ask, and the SLO search."""
    panels = [
        (results.PREDICT, "POST /predict by customer id, closed loop, 16 connections"),
        (results.V2_REST, "V2 REST infer, one row"),
        (results.V2_GRPC, "V2 gRPC infer, one row"),
    ]
    counts = [sum(measured.has(key, measure) for key in measured.titles) for measure, _ in panels]
    figure = Figure(figsize=(11, 2.6 + 0.42 * sum(counts) + 2.6), layout="constrained")
    axes = figure.subplots(4, 1, height_ratios=[*(count + 1 for count in counts), 7])
    for panel, (measure, title) in zip(axes[:3], panels, strict=True):
        _bars(panel, measured, measure, title)
    axes[2].set_xlabel("answers per second on one core; whiskers: the range over the rounds")
    _search(axes[3], measured)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, measured: Results, measure: str, title: str) -> None:
    keys = [key for key in measured.titles if measured.has(key, measure)]
    keys.sort(key=lambda key: measured.median(key, measure))
    widest = max((max(measured.rounds(key, measure)) for key in keys), default=1.0)
    for position, key in enumerate(keys):
        values = measured.rounds(key, measure)
        middle = measured.median(key, measure)
        colour = OURS if key in (PROJECT, REDIS, PLAIN) else CEILING if key == BARE else OTHERS
        spread = [[middle - min(values)], [max(values) - middle]]
        axes.barh(position, middle, xerr=spread, color=colour, height=0.7, error_kw={"capsize": 3, "elinewidth": 1})
        axes.text(max(values) + widest * 0.012, position, f"{middle:,.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(keys)), [measured.titles[key] for key in keys])
    axes.set_xlim(0, widest * 1.1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _search(axes: Axes, measured: Results) -> None:
    for wanted, colour, label in ((True, OURS, "VALID"), (False, BAD, "INVALID")):
        chosen = [(qps, p99_ms) for qps, p99_ms, valid in measured.slo_trials if valid is wanted]
        axes.plot([qps for qps, _ in chosen], [p99_ms for _, p99_ms in chosen], "o", color=colour, label=label)
    axes.axhline(BOUND_MS, color="#7f8c8d", linestyle="--", label=f"bound: {BOUND_MS:g} ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.set_ylabel("P99, ms")
    axes.set_xlabel("Poisson arrivals, requests/s")
    axes.set_title("this project, /predict, SQLite: the search for the SLO capacity", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False)
