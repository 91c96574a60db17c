"""docs/benchmarks.md: the generated part stands between two markers, what people wrote around it stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.durations import Durations
from benchmarks.errors import MeasurementError
from benchmarks.goals import Outcome
from benchmarks.results import TITLES, Results

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


def update_document(path: Path, generated: str) -> None:
    """Replace what stands between the markers. Raises MeasurementError when the file or a marker is missing."""
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
        "Largest difference to XGBoost's own probability over 25 customers, checked before each measurement "
        "(allowed: 1e-5):",
        _agreement(measured),
        "## Raw values, round by round",
        _raw(measured),
        "## Repeated, because an answer failed",
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
    """Return a figure as a person reads it: thousands with commas, small ones with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
