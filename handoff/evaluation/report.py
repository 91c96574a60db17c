"""An evaluation as one HTML page without scripts, fonts or images from other servers, so it opens offline too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from handoff.evaluation.measures import HIGHER_IS_BETTER
from handoff.evaluation.results import (
    ClassCurves,
    Comparison,
    Evaluation,
    Importance,
    Points,
    Profile,
    Residuals,
    Segment,
)

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #dfe3ea; --page: #ffffff; --card: #f7f8fa;
  --first: #2563eb; --second: #d97706; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #2c3442; --page: #12161d;
  --card: #1a202a; --first: #7aa2ff; --second: #f2b04b; --good: #4ade80; --bad: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
.scroll + h3, .plots + h3, .plots + .scroll { margin-top: 1.25rem; }
p { margin: .25rem 0 .75rem; } .soft { color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem;
  min-width: 8rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); gap: 1.25rem; }
.plot { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.scroll { overflow-x: auto; background: linear-gradient(to right, var(--page) 30%, transparent) left / 40px 100% local,
  linear-gradient(to left, var(--page) 30%, transparent) right / 40px 100% local,
  linear-gradient(to right, var(--line), transparent) left / 12px 100% scroll,
  linear-gradient(to left, var(--line), transparent) right / 12px 100% scroll;
  background-repeat: no-repeat; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; }
span.left { display: block; }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
.note { border-left: 3px solid var(--second); padding: .3rem .8rem; background: var(--card); }
"""
NAMES = {
    "auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "accuracy": "Accuracy",
    "macro_auc": "Macro AUC",
    "r2": "R2",
    "mae": "MAE",
    "rmse": "RMSE",
    "coverage": "Share inside the interval",
    "width": "Mean width of the interval",
}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 340, 250, 54, 36, 10, 10


def page(evaluation: Evaluation) -> str:
    """Return the page as HTML text."""
    parts = [
        f"<h1>Evaluation of {escape(evaluation.model)}</h1>",
        f'<p class="soft">{evaluation.rows:,} rows of {escape(evaluation.source)}</p>',
        f'<p class="note">{escape(evaluation.note)}</p>' if evaluation.note else "",
        '<div class="cards">',
        *(
            f'<div class="card"><span class="soft">{escape(NAMES.get(name, name))}</span><b>{number(value)}</b></div>'
            for name, value in evaluation.metrics.items()
        ),
        "</div>",
        _comparison(evaluation.comparison),
        *(class_curves(curves, evaluation.task) for curves in evaluation.curves),
        _classes(evaluation),
        residual_plots(evaluation.residuals),
        _importance(evaluation.importance),
        _segments(evaluation.segments),
        _profile(evaluation.profile),
    ]
    return document(f"Evaluation of {evaluation.model}", parts)


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page of these parts, which are HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"{''.join(parts)}</body></html>\n"
    )


def _comparison(comparison: Comparison | None) -> str:
    if comparison is None:
        return (
            '<h2>Beside the champion</h2><p class="soft">There is no champion yet, or this model is the champion.</p>'
        )
    rows = [
        [
            NAMES.get(found.metric, found.metric) + (" (higher is better)" if found.metric in HIGHER_IS_BETTER else ""),
            number(found.model),
            number(found.champion),
            number(found.difference, signed=True),
            f"{number(found.low, signed=True)} to {number(found.high, signed=True)}",
            f'<span class="{escape(found.verdict.split()[0])}">{escape(found.verdict)}</span>',
        ]
        for found in comparison.differences
    ]
    heads = ["Metric", "This model", "Champion", "Difference", "95 % interval", "Verdict"]
    return (
        f"<h2>Beside the champion {escape(comparison.champion)}</h2>"
        f"<p>The same {comparison.rows:,} rows, paired bootstrap with {comparison.replicates:,} samples.</p>"
        + (f'<p class="note">{escape(comparison.note)}</p>' if comparison.note else "")
        + table(heads, rows)
    )


def class_curves(curves: ClassCurves, task: str, *, level: int = 2) -> str:
    """Return a class's curves. level: of the heading."""
    title = f"Positive class {curves.label}" if task == "binary" else f"Class {curves.label} against the rest"
    rate = max((decile.rate for decile in curves.lift), default=1.0) or 1.0
    plots = [
        plot(
            "ROC curve", "false positive rate", "true positive rate", line(curves.roc), line(_diagonal(), dashed=True)
        ),
        plot("Precision and recall", "recall", "precision", line(curves.precision_recall)),
        plot(
            "Calibration, with 95 % intervals",
            "mean prediction",
            "observed rate",
            line(_diagonal(), dashed=True),
            "".join(
                f'<line x1="{x_of(found.predicted)}" x2="{x_of(found.predicted)}" y1="{y_of(found.low)}" '
                f'y2="{y_of(found.high)}" stroke="var(--first)" opacity=".5"/>'
                f'<circle cx="{x_of(found.predicted)}" cy="{y_of(found.observed)}" r="3.5" fill="var(--first)"/>'
                for found in curves.calibration
            ),
        ),
        _bars(
            "Rate by tenth of the score, with the lift",
            [(f"{place}", decile.rate, f"{decile.lift:.1f}") for place, decile in enumerate(curves.lift, start=1)],
            rate,
        ),
    ]
    return f'<h{level}>{escape(title)}</h{level}><div class="plots">{"".join(plots)}</div>'


def _classes(evaluation: Evaluation) -> str:
    if not evaluation.class_table:
        return ""
    rows = [
        [
            escape(found.label),
            f"{found.rows:,}",
            *(number(value) for value in (found.precision, found.recall, found.f1, found.auc)),
        ]
        for found in evaluation.class_table
    ]
    confusion = [
        [escape(label), *(f"{count:,}" for count in counts)]
        for label, counts in zip(evaluation.classes, evaluation.confusion, strict=True)
    ]
    return (
        "<h2>Classes</h2>"
        + table(["Class", "Rows", "Precision", "Recall", "F1", "AUC"], rows)
        + "<h3>Confusion: true class by row, predicted class by column</h3>"
        + table(["", *(escape(label) for label in evaluation.classes)], confusion)
    )


def residual_plots(residuals: Residuals | None, *, level: int = 2) -> str:
    """Return how a regression is wrong; nothing for another task. level: of the heading."""
    if residuals is None:
        return ""
    highest = max(residuals.counts) or 1
    bars = [
        (tick(low) if place % 6 == 0 else "", float(count), "")
        for place, (low, count) in enumerate(zip(residuals.edges, residuals.counts, strict=False))
    ]
    spread = [*residuals.predicted, *residuals.observed]
    low, high = min(spread), max(spread)
    scaled = [
        Points(
            x=tuple((value - low) / ((high - low) or 1) for value in residuals.predicted),
            y=tuple((value - low) / ((high - low) or 1) for value in residuals.observed),
        )
    ]
    plots = [
        _bars("Residuals (truth - prediction)", bars, float(highest)),
        plot(
            "Mean truth by tenth of the prediction",
            f"prediction, {number(low)} to {number(high)}",
            "truth",
            line(_diagonal(), dashed=True),
            line(scaled[0]),
            numbers=False,
        ),
    ]
    quantiles = table(list(residuals.quantiles), [[number(value) for value in residuals.quantiles.values()]])
    heading = f"<h{level}>Residuals</h{level}>"
    return f'{heading}<div class="plots">{"".join(plots)}</div><h3>Quantiles</h3>{quantiles}'


def _importance(found: Sequence[Importance]) -> str:
    if not found:
        return ""
    greatest = max(1e-12, *(importance.increase for importance in found))
    rows = [
        [
            escape(importance.feature),
            f"{importance.increase:+.4g}",
            f"{importance.deviation:.2g}",
            f'<svg viewBox="0 0 200 10" style="width:12rem"><rect height="10" rx="2" fill="var(--first)" '
            f'width="{max(0.0, importance.increase) / greatest * 200:.1f}"/></svg>',
        ]
        for importance in found
    ]
    return "<h2>Feature importance</h2><p>How much the loss grows when a feature's values are shuffled.</p>" + table(
        ["Feature", "Increase", "Deviation", ""], rows
    )


def _segments(segments: Sequence[Segment]) -> str:
    if not segments:
        return ""
    names = list(segments[0].metrics)
    has_champion = any(segment.champion for segment in segments)
    heads = ["Feature", "Category", "Rows", *(NAMES.get(name, name) for name in names)]
    if has_champion:
        heads += [f"Champion's {NAMES.get(name, name)}" for name in names]
    rows = []
    for segment in segments:
        cells = [escape(segment.feature), f'<span class="left">{escape(segment.category)}</span>', f"{segment.rows:,}"]
        cells += [number(segment.metrics[name]) for name in names]
        if has_champion:
            cells += [number((segment.champion or {}).get(name)) for name in names]
        rows.append(cells)
    return "<h2>Segments</h2><p>A dash: too few rows, or one class only.</p>" + table(heads, rows)


def _profile(profile: Sequence[Profile]) -> str:
    names = ["mean", "deviation", "minimum", "25%", "median", "75%", "maximum", "missing"]
    rows = []
    for found in profile:
        total = sum(found.counts) or 1
        highest = max(found.counts, default=0) or 1
        width = 160 / max(len(found.counts), 1)
        bars = "".join(
            f'<rect x="{place * width:.1f}" y="{24 - count / highest * 24:.1f}" width="{max(width - 1, 1):.1f}" '
            f'height="{count / highest * 24:.1f}" fill="var(--first)"><title>{escape(label)}: {count:,} '
            f"({count / total:.1%})</title></rect>"
            for place, (label, count) in enumerate(zip(found.labels, found.counts, strict=True))
        )
        unit = f' <span class="soft">{escape(found.unit)}</span>' if found.unit else ""
        cells = [number(found.numbers.get(name)) for name in names]
        rows.append(
            [escape(found.feature) + unit, f'<svg viewBox="0 0 160 24" style="width:10rem">{bars}</svg>', *cells]
        )
    return "<h2>The rows</h2>" + table(["Feature", "Distribution", *names], rows)


def table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are HTML, in a box that scrolls."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def plot(title: str, x_label: str, y_label: str, *drawings: str, numbers: bool = True) -> str:
    """Return a plot over the unit square; drawings are SVG."""
    ticks = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(tick)}" y2="{y_of(tick)}" stroke="var(--line)"/>'
        + (
            f'<text x="{LEFT - 6}" y="{y_of(tick) + 4}" text-anchor="end">{tick:g}</text>'
            f'<text x="{x_of(tick)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
            if numbers
            else ""
        )
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<div class="plot"><h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{ticks}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">{escape(y_label)}</text>'
        f"{''.join(drawings)}</svg></div>"
    )


def _bars(title: str, bars: Sequence[tuple[str, float, str]], highest: float) -> str:
    """Draw bars (label below, height, label above)."""
    width = (WIDTH - LEFT - RIGHT) / max(len(bars), 1)
    drawn = []
    for place, (below, height, above) in enumerate(bars):
        top = y_of(height / highest * 0.92)
        middle = LEFT + (place + 0.5) * width
        drawn.append(
            f'<rect x="{LEFT + place * width + 1:.1f}" y="{top}" width="{max(width - 2, 1):.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}" fill="var(--first)" rx="2"/>'
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(below)}</text>'
            f'<text x="{middle:.1f}" y="{top - 4:.1f}" text-anchor="middle">{escape(above)}</text>'
        )
    ticks = "".join(
        f'<text x="{LEFT - 6}" y="{y_of(share * 0.92) + 4}" text-anchor="end">{tick(highest * share)}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<div class="plot"><h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"{ticks}{''.join(drawn)}</svg></div>"
    )


def line(points: Points, *, dashed: bool = False) -> str:
    """Return a curve of shares as SVG."""
    path = " ".join(f"{x_of(x)},{y_of(y)}" for x, y in zip(points.x, points.y, strict=True))
    look = 'stroke="var(--soft)" stroke-dasharray="4 4"' if dashed else 'stroke="var(--first)" stroke-width="2"'
    return f'<polyline points="{path}" fill="none" {look}/>'


def _diagonal() -> Points:
    return Points(x=(0.0, 1.0), y=(0.0, 1.0))


def x_of(share: float) -> float:
    """Return the place of a share on the x axis."""
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def y_of(share: float) -> float:
    """Return the place of a share on the y axis."""
    return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a number for a reader, a dash for none. A large one has no exponent: 28,320, and not 2.832e+04."""
    if value is None:
        return "-"
    is_whole = abs(value) >= 10_000 or (float(value).is_integer() and abs(value) >= 1)
    return format(value, ("+" if signed else "") + (",.0f" if is_whole else ".4g"))


def tick(value: float) -> str:
    """Return a number in the few letters that an axis has room for: 28.3k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
