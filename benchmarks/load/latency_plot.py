"""The plot of a load test: the distribution of latency, and latency over time or over arrival rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.load.result import LoadResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GOOD, BAD, BOUND, FAINT = "#1b6ca8", "#c0392b", "#7f8c8d", "#9fc5e8"
NINES = (0.5, 0.9, 0.99, 0.999, 0.9999)
WINDOWS = 60


def draw(path: Path, title: str, result: LoadResult, trials: Sequence[LoadResult], *, bound_ms: float) -> None:
    """Write a PNG: the latency curve, and beside it latency over time, or, after a search, P99 at each rate tried."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{title} at {result.summary.scheduled_qps:,.0f} requests/s: {result.verdict}")
    _curve(left, result, bound_ms)
    if trials:
        _rates(right, trials, bound_ms)
    else:
        _timeline(right, result, bound_ms)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_ylabel("latency, ms")
        axes.grid(alpha=0.25)
        axes.legend(loc="lower right", frameon=False)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _curve(axes: Axes, result: LoadResult, bound_ms: float) -> None:
    ordered = np.sort(np.asarray(result.latency_ms))
    share = np.arange(len(ordered)) / len(ordered)
    axes.plot(_nines(share), ordered, color=GOOD, label="from being sent to the answer")
    summary = result.summary
    official = {0.5: summary.p50_ms, 0.9: summary.p90_ms, 0.99: summary.p99_ms, 0.999: summary.p999_ms}
    axes.plot(
        _nines(np.asarray(list(official))),
        list(official.values()),
        "o",
        color=GOOD if summary.p99_ms <= bound_ms else BAD,
        label="from the scheduled arrival (LoadGen)",
    )
    axes.axhline(bound_ms, color=BOUND, linestyle="--", label=f"bound at P99: {bound_ms:g} ms")
    shown = [nine for nine in NINES if nine <= share[-1]]
    axes.set_xticks(_nines(np.asarray(shown)), [f"{nine * 100:g} %" for nine in shown])
    axes.set_xlabel("share of requests at or below")


def _timeline(axes: Axes, result: LoadResult, bound_ms: float) -> None:
    issued_s, latency_ms = np.asarray(result.issued_s), np.asarray(result.latency_ms)
    edges = np.linspace(issued_s.min(), issued_s.max(), WINDOWS + 1)
    window = np.clip(np.digitize(issued_s, edges) - 1, 0, WINDOWS - 1)
    filled = [number for number in range(WINDOWS) if (window == number).any()]
    for percentile, colour, width in ((50, FAINT, 2.0), (99, GOOD, 1.6), (100, BAD, 0.8)):
        values = [np.percentile(latency_ms[window == number], percentile) for number in filled]
        label = "slowest" if percentile == 100 else f"P{percentile}"
        axes.plot(edges[filled], values, color=colour, linewidth=width, label=label)
    axes.axhline(bound_ms, color=BOUND, linestyle="--")
    axes.set_xlabel("time, s")


def _rates(axes: Axes, trials: Sequence[LoadResult], bound_ms: float) -> None:
    for valid, colour, label in ((True, GOOD, "P99, PASSED"), (False, BAD, "P99, FAILED")):
        chosen = [trial for trial in trials if trial.valid is valid]
        rates = [trial.summary.scheduled_qps for trial in chosen]
        axes.plot(rates, [trial.summary.p99_ms for trial in chosen], "o", color=colour, label=label)
    axes.axhline(bound_ms, color=BOUND, linestyle="--")
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("arrival rate, requests/s")


def _nines(share: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log10(1 - share))
