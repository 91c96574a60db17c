"""A quality check as one HTML page, in the look of the evaluation's: no scripts, and nothing from other servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from custom_runtime.schema import TaskKind
from handoff.evaluation.measures import HIGHER_IS_BETTER
from handoff.evaluation.report import (
    NAMES,
    class_curves,
    document,
    number,
    plot,
    residual_plots,
    table,
    tick,
    x_of,
    y_of,
)
from handoff.quality.results import Challenge, Measure, Quality, VersionQuality
from handoff.quality.scoring import CLASS_METRICS, METRICS
from handoff.quality.segments import FEWEST_LABELS, NO_FEATURES

QUALITY_NAMES = {
    **NAMES,
    "calibration": "Observed minus predicted",
    "lift": "Lift of the highest tenth",
}
SHOWN_SEGMENTS = 20  # of each metric, those with the greatest difference
_FAILING = {
    "calibration": ("What happens is not what it predicts", "Observed", "Predicted"),
    "log_loss": ("It is surer than it may be", "Log loss", "By its own probabilities"),
    "mae": ("Its errors are greater than elsewhere", "MAE", "Elsewhere"),
}
_COLORS = ("var(--first)", "var(--second)", "var(--good)", "var(--bad)")
_VERDICTS = {"steady": "better", "within chance": "soft", "watch": "soft", "moved": "worse"}


def page(quality: Quality) -> str:
    """Return the page as HTML text."""
    title = f"Quality of {quality.model}"
    lost = f"{quality.unmatched:,} found no prediction, {quality.superseded:,} were replaced by a later label"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{quality.predictions:,} predictions and {quality.labels:,} labels, joined by '
        f"{quality.joined_by}; {lost}. Measured {quality.made:%Y-%m-%d %H:%M} UTC.</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in quality.notes),
        "<p>Every interval is a 95 % bootstrap interval; the predictions for one key are drawn together.</p>",
        _versions(quality.versions, quality.task),
        _over_time(quality.versions, quality.task),
        *(_challenge(found) for found in quality.challenges),
        *(_version(version, quality.task) for version in quality.versions),
        _failing(quality),
        _drift(quality),
        _freshness(quality),
    ]
    return document(title, parts)


def _versions(versions: Sequence[VersionQuality], task: TaskKind) -> str:
    names = _measured(versions, task)
    heads = ["Version", "Predictions", "Labels", *(["Positive"] if task == "binary" else [])]
    rows = []
    for version in versions:
        found = version.overall
        positive = [] if found.positives is None else [f"{found.positives / found.labels:.1%}" if found.labels else "-"]
        cells = [escape(version.version), f"{version.predictions:,}", f"{found.labels:,}", *positive]
        rows.append(cells + _cells(found.measures, names, task))
    few = [version.version for version in versions if version.overall.labels < FEWEST_LABELS]
    note = f"Fewer than {FEWEST_LABELS} labels measure nothing: version {', '.join(few)}."
    shown = "<h2>Versions</h2>" + table([*heads, *(QUALITY_NAMES[name] for name in names)], rows)
    return shown + (f'<p class="soft">{escape(note)}</p>' if few else "")


def _measured(versions: Sequence[VersionQuality], task: TaskKind) -> list[str]:
    """Return the metrics that have a value: only some regressions have intervals."""
    return [
        name for name in METRICS[task] if any(version.overall.measures[name].value is not None for version in versions)
    ]


def _version(version: VersionQuality, task: TaskKind) -> str:
    """Show one version by itself: its curves, its classes, its residuals."""
    rows = [
        [escape(found.label), f"{found.labels:,}", *_cells(found.measures, CLASS_METRICS, task)]
        for found in version.classes
    ]
    heads = ["Class", "Labels", "Log loss of its rows", "Accuracy of its rows", "AUC against the rest"]
    classes = f"<h3>Classes</h3>{table([*heads, QUALITY_NAMES['calibration']], rows)}" if rows else ""
    details = classes + "".join(class_curves(curves, task, level=3) for curves in version.curves)
    details += residual_plots(version.residuals, level=3)
    return f"<h2>Version {escape(version.version)}</h2>{details}" if details else ""


def _over_time(versions: Sequence[VersionQuality], task: TaskKind) -> str:
    versions = [version for version in versions if version.periods]
    if max((len(version.periods) for version in versions), default=0) < 2:
        return (
            '<h2>Over time</h2><p class="soft">No version has labels of two periods '
            f"({FEWEST_LABELS} in each); --period makes them shorter or longer.</p>"
        )
    legend = " ".join(
        f'<span style="color:{_COLORS[place % len(_COLORS)]}">&#9679; version {escape(version.version)}</span>'
        for place, version in enumerate(versions)
    )
    names = _measured(versions, task)
    plots = "".join(_plot_of(name, versions) for name in names)
    rows = [
        [
            f"{period.begin:%Y-%m-%d} to {period.end:%Y-%m-%d}",
            escape(period.version),
            f"{period.labels:,}",
            *_cells(period.measures, names, task),
        ]
        for version in versions
        for period in version.periods
    ]
    heads = ["Period", "Version", "Labels", *(QUALITY_NAMES[name] for name in names)]
    return f'<h2>Over time</h2><p>{legend}</p><div class="plots">{plots}</div>' + table(heads, rows)


def _plot_of(name: str, versions: Sequence[VersionQuality]) -> str:
    periods = [period for version in versions for period in version.periods]
    begin = min(period.begin for period in periods)
    span_s = max((max(period.begin for period in periods) - begin).total_seconds(), 1.0)
    bounds = [
        bound
        for period in periods
        for bound in (period.measures[name].low, period.measures[name].high)
        if bound is not None
    ]
    if not bounds:
        return ""
    low, high = min(bounds), max(bounds)
    scale = (high - low) or 1.0

    def marks(version: VersionQuality, color: str) -> Iterator[str]:
        places = []
        for period in version.periods:
            measure = period.measures[name]
            if measure.value is None or measure.low is None or measure.high is None:
                continue
            x = x_of(0.04 + 0.92 * (period.begin - begin).total_seconds() / span_s)
            places.append(f"{x},{y_of((measure.value - low) / scale)}")
            yield (
                f'<line x1="{x}" x2="{x}" y1="{y_of((measure.low - low) / scale)}" '
                f'y2="{y_of((measure.high - low) / scale)}" stroke="{color}" opacity=".5"/>'
                f'<circle cx="{x}" cy="{y_of((measure.value - low) / scale)}" r="3.5" fill="{color}">'
                f"<title>{period.begin:%Y-%m-%d}: {measure.value:.4g}, {period.labels:,} labels</title></circle>"
            )
        yield f'<polyline points="{" ".join(places)}" fill="none" stroke="{color}" stroke-width="2"/>'

    drawn = [mark for place, version in enumerate(versions) for mark in marks(version, _COLORS[place % len(_COLORS)])]
    scales = "".join(
        f'<text x="{x_of(0) - 6}" y="{y_of(share) + 4}" text-anchor="end">{tick(low + share * scale)}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    last = max(period.begin for period in periods)
    return plot(QUALITY_NAMES[name], f"{begin:%Y-%m-%d} to {last:%Y-%m-%d}", "", scales, *drawn, numbers=False)


def _challenge(found: Challenge) -> str:
    rows = [
        [
            QUALITY_NAMES[difference.metric] + (" (higher is better)" if difference.metric in HIGHER_IS_BETTER else ""),
            number(difference.model),
            number(difference.champion),
            number(difference.difference, signed=True),
            f"{number(difference.low, signed=True)} to {number(difference.high, signed=True)}",
            f'<span class="{difference.verdict.split()[0]}">{difference.verdict}</span>',
        ]
        for difference in found.comparison.differences
    ]
    one, other = f"Version {escape(found.challenger)}", f"Version {escape(found.champion)}"
    heads = ["Metric", one, other, "Difference", "95 % interval", f"{one} is"]
    return (
        f"<h2>Challenger {escape(found.challenger)} beside version {escape(found.champion)}</h2>"
        f"<p>{found.comparison.rows:,} labelled rows that both scored.</p>" + table(heads, rows)
    )


def _failing(quality: Quality) -> str:
    shown = f'<h2>Segments where it fails</h2><p class="soft">{escape(quality.failing_note)}</p>'
    if not quality.failing and quality.failing_note != NO_FEATURES:
        shown += "<p>None was found.</p>"
    for metric, (title, value, expected) in _FAILING.items():
        found = [one for one in quality.failing if one.metric == metric]
        if not found:
            continue
        is_rate = metric == "calibration" and quality.task != "regression"
        rows = [
            [
                escape(one.version),
                *(f'<span class="left">{escape(text)}</span>' for text in (one.feature, one.segment)),
                *([] if one.label is None else [escape(one.label)]),
                f"{one.labels:,}",
                _amount(one.value, is_rate=is_rate),
                _amount(one.expected, is_rate=is_rate),
                _amount(one.difference, is_rate=is_rate, signed=True),
                f"{_amount(one.low, is_rate=is_rate, signed=True)} to "
                f"{_amount(one.high, is_rate=is_rate, signed=True)}",
            ]
            for one in found[:SHOWN_SEGMENTS]
        ]
        heads = ["Version", '<span class="left">Feature</span>', '<span class="left">Segment</span>']
        heads += [] if found[0].label is None else ["Class"]
        shown += f"<h3>{title}</h3>" + table([*heads, "Labels", value, expected, "Difference", "Interval"], rows)
        if more := len(found) - len(rows):
            shown += f'<p class="soft">{more:,} more with a smaller difference are in quality.json.</p>'
    return shown


def _drift(quality: Quality) -> str:
    parts = ["<h2>Drift against the training profile</h2>"]
    if quality.drift_note:
        parts.append(f'<p class="note">{escape(quality.drift_note)}</p>')
    heads = ["Input", "Rows", "PSI", "Effect", "What moved most", "Missing", ""]
    for version, drifts in quality.drift.items():
        rows = [
            [
                escape(found.name),
                f"{found.rows:,}",
                f"{found.psi:.3f}",
                f"{found.effect:+.3f}",
                escape(found.moved),
                f"{found.missing:.1%}",
                f'<span class="{_VERDICTS[found.verdict]}">{found.verdict}</span>',
            ]
            for found in drifts
        ]
        parts.append(f"<h3>Version {escape(version)}</h3>{table(heads, rows)}")
    return "".join(parts)


def _freshness(quality: Quality) -> str:
    rows = [
        [
            escape(found.version),
            f"{found.rows:,}",
            _age(found.median_s),
            _age(found.p95_s),
            ", ".join(f"{escape(name)} {share:.1%}" for name, share in sorted(found.sources.items())),
        ]
        for found in quality.freshness
    ]
    heads = ["Version", "Predictions", "Median age", "95 % are younger than", "Features from"]
    return "<h2>Freshness of the features</h2>" + table(heads, rows)


def _cells(measures: Mapping[str, Measure], names: Iterable[str], task: TaskKind) -> list[str]:
    """Return each metric with its interval; a difference of rates in percent."""
    cells = []
    for name in names:
        found, is_rate = measures[name], name == "calibration" and task != "regression"
        if found.value is None or found.low is None or found.high is None:
            cells.append("-")
            continue
        value, low, high = (
            _amount(one, is_rate=is_rate, signed=is_rate) for one in (found.value, found.low, found.high)
        )
        cells.append(f'{value}<br><span class="soft">{low} to {high}</span>')
    return cells


def _amount(value: float, *, is_rate: bool, signed: bool = False) -> str:
    return format(value, "+.1%" if signed else ".1%") if is_rate else number(value, signed=signed)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
