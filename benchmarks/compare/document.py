"""Writes docs/benchmarks.md and docs/benchmarks.png from the results.

The generated part of the page is between two markers; the text around it is kept. It also names the machine and the
versions that were measured. The plot shows answers per second of every server, and the search for the SLO capacity.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import ticker
from matplotlib.figure import Figure

from benchmarks.compare import results
from benchmarks.compare.goals import Outcome
from benchmarks.compare.measurement import Durations
from benchmarks.compare.results import TITLES, Results
from benchmarks.compare.servers import BARE, PLAIN, PROJECT, REDIS
from benchmarks.errors import MeasurementError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN = "<!-- measured: written by `make bench`, do not edit -->"
END = "<!-- end of what was measured -->"
TABLE_MEASURES = (
    results.PREDICT,
    results.PREDICT_P99,
    results.V2_REST,
    results.V2_GRPC,
    results.STARTUP,
    results.RESIDENT,
)
OURS, BARE_GREY, OTHERS, BAD = "#1b6ca8", "#bdc3c7", "#d98e04", "#c0392b"
BOUND_MS = 50.0
PACKAGES = {
    "this project": (
        None,
        ("mlserver", "uvicorn", "uvloop", "httptools", "pydantic", "onnxruntime", "xgboost", "grpcio"),
    ),
    "FastAPI by hand, bare ASGI app": (
        "fastapi",
        ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "xgboost", "onnxruntime"),
    ),
    "LitServe": ("litserve", ("litserve", "fastapi", "uvicorn", "pydantic", "onnxruntime")),
    "BentoML": ("bentoml", ("bentoml", "uvicorn", "pydantic", "xgboost")),
    "KServe": ("kserve", ("kserve", "fastapi", "uvicorn", "pydantic", "xgboost")),
}


def update_document(path: Path, generated: str) -> None:
    """Replace the text between the markers. Raises MeasurementError when the file or a marker is missing."""
    text = path.read_text() if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MeasurementError(f"{path} lacks the markers {BEGIN!r} and {END!r}; put them back")
    path.write_text(f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}")


def render(
    measured: Results, outcomes: Sequence[Outcome], durations: Durations, machine: Sequence[str], profile: Sequence[str]
) -> str:
    """Return the generated Markdown."""
    parts = [
        "## Goals",
        _goals(outcomes),
        "![answers per second](benchmarks.png)",
        "## Figures",
        f"Medians over {durations.rounds} rounds, and the range over them.",
        *[
            _figures(measured, measure)
            for measure in TITLES
            if any(measured.has(key, measure) for key in measured.titles)
        ],
        "## Where the time of one /predict goes",
        "\n".join(profile),
        "## Machine and versions",
        "\n".join(machine),
        "## Agreement",
        "Largest difference to XGBoost's own probability over 25 rows, checked before each measurement "
        "(allowed: 1e-5):",
        _agreement(measured),
        "## Raw values, round by round",
        _raw(measured),
        "## Repeated, because an answer failed or another machine had the cores",
        "\n".join(f"- {one}" for one in measured.repeated) or "Nothing.",
    ]
    return "\n\n".join(part for part in parts if part)


def _goals(outcomes: Sequence[Outcome]) -> str:
    lines = ["| goal | wanted | measured | rounds | |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        goal = outcome.goal
        sign = ">=" if goal.at_least else "<="
        rounds = ", ".join(f"{value:.3g}" for value in outcome.values)
        verdict = "met" if outcome.met else "**not met**"
        wanted, value = f"{sign} {goal.wanted:g}{goal.unit}", f"{outcome.value:.3g}{goal.unit}"
        lines.append(f"| {goal.text} | {wanted} | {value} | {rounds} | {verdict} |")
    return "\n".join(lines)


def _figures(measured: Results, measure: str) -> str:
    rows = [(key, measured.median(key, measure)) for key in measured.titles if measured.has(key, measure)]
    lines = [f"| {TITLES[measure]} | median | range |", "|---|---|---|"]
    higher_first = measure.endswith(("per_s", "qps"))
    for key, value in sorted(rows, key=lambda row: -row[1] if higher_first else row[1]):
        values = measured.rounds(key, measure)
        note = (
            f" ({measured.notes[key]})"
            if key in measured.notes and measure in (results.V2_REST, results.V2_GRPC)
            else ""
        )
        spread = f"{number(min(values))} to {number(max(values))}"
        lines.append(f"| {measured.titles[key]}{note} | {number(value)} | {spread} |")
    return "\n".join(lines)


def _agreement(measured: Results) -> str:
    return "\n".join(
        f"- {measured.titles[key]}: {'a constant, not compared' if key == 'bare' else f'{value:.1e}'}"
        for key, value in measured.largest_difference.items()
    )


def _raw(measured: Results) -> str:
    lines = ["| server | measure | rounds |", "|---|---|---|"]
    for key, measures in measured.values.items():
        for measure, values in measures.items():
            lines.append(f"| {measured.titles[key]} | `{measure}` | {', '.join(number(value) for value in values)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Format a figure for people: thousands with commas, small ones with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(path: Path, measured: Results) -> None:
    """Write the PNG: three rows of bars, one for each way to ask, and the SLO search."""
    panels = [
        (results.PREDICT, "POST /predict by key, closed loop, 16 connections"),
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
        colour = OURS if key in (PROJECT, REDIS, PLAIN) else BARE_GREY if key == BARE else OTHERS
        spread = [[middle - min(values)], [max(values) - middle]]
        axes.barh(position, middle, xerr=spread, color=colour, height=0.7, error_kw={"capsize": 3, "elinewidth": 1})
        axes.text(max(values) + widest * 0.012, position, f"{middle:,.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(keys)), [measured.titles[key] for key in keys])
    axes.set_xlim(0, widest * 1.1)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def _search(axes: Axes, measured: Results) -> None:
    for wanted, colour, label in ((True, OURS, "PASSED"), (False, BAD, "FAILED")):
        chosen = [(qps, p99_ms) for qps, p99_ms, valid in measured.slo_trials if valid is wanted]
        axes.plot([qps for qps, _ in chosen], [p99_ms for _, p99_ms in chosen], "o", color=colour, label=label)
    axes.axhline(BOUND_MS, color="#7f8c8d", linestyle="--", label=f"bound: {BOUND_MS:g} ms")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.set_ylabel("P99, ms")
    axes.set_xlabel("Poisson arrivals, requests/s")
    axes.set_title("/predict, SQLite: the search for the SLO capacity", loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    # Above the axes: the points are everywhere within.
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, columnspacing=1, fontsize="small", frameon=False)


def machine_lines(root: Path) -> list[str]:
    """Return Markdown list items: processor, kernel, Python, commit, versions by server."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.+)", cpuinfo)
    meminfo = Path("/proc/meminfo").read_text()
    memory_gb = int(re.search(r"MemTotal:\s+(\d+)", meminfo).group(1)) * 1024 / 1e9  # type: ignore[union-attr]
    lines = [
        f"- processor: {found.group(1) if found else platform.processor()}, {os.cpu_count()} cores, {memory_gb:.0f} GB",
        f"- system: {platform.system()} {platform.release()}; Python {platform.python_version()}",
        f"- wrk: {_first_line('wrk', '-v')}; redis: {_first_line('redis-server', '--version')}",
        f"- commit: {_first_line('git', '-C', str(root), 'rev-parse', '--short', 'HEAD')}",
    ]
    for title, (peer, packages) in PACKAGES.items():
        lines.append(f"- {title}: {', '.join(_versions(root, peer, packages))}")
    return lines


def _versions(root: Path, peer: str | None, packages: tuple[str, ...]) -> list[str]:
    python = sys.executable if peer is None else str(root / "var" / "peers" / peer / "venv" / "bin" / "python")
    code = "import sys\nfrom importlib.metadata import version\nprint([f'{p} {version(p)}' for p in sys.argv[1:]])"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=False)
    return re.findall(r"'([^']+)'", done.stdout)


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return (done.stdout or done.stderr).strip().partition("\n")[0].partition(" Copyright")[0].partition(" sha=")[0]
