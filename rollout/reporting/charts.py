"""Draws the charts of a rollout's report as SVG text, without a library, a script or external files.

Charts over time share one axis, so that they can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from rollout.analysis.counts import ZERO, Counts
from rollout.analysis.verdict import Verdict
from rollout.reporting.timeline import Stage, Timeline, quantile_edge_ms

STABLE: Final = "#2f6db5"
CANARY: Final = "#d9730d"
VERDICT_COLOURS: Final[Mapping[Verdict, str]] = {
    Verdict.PASS: "#3a9d5d",
    Verdict.FAIL: "#c8322b",
    Verdict.INCONCLUSIVE: "#e8b84a",
    Verdict.NO_DATA: "#c9ced6",
    Verdict.ERROR: "#8a5cb8",
}
SHARE_MIN_REQUESTS: Final = 20
"""With fewer requests a share is too uncertain to draw."""
LATENCY_LABELS: Final = 6
"""At most so many edges of the latency buckets have a label, the objective's among them."""
WIDTH: Final = 1060
LEFT: Final = 124
LABEL_LETTERS: Final = 18
"""As many letters of a gate's or check's name have room left of the charts."""
RIGHT: Final = 14
_SPACINGS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


def weights(line: Timeline, clock: Clock) -> str:
    """Draw the canary's weight as an area, and its observed share of requests as a dashed line."""
    top, base = 14.0, 130.0
    stable, canary = line.final.stable, line.final.canary

    def y(percent: float) -> float:
        return base - percent / 100 * (base - top)

    parts = [box(LEFT, top, WIDTH - RIGHT, base, STABLE, opacity=0.16)]
    observed = []
    for window in line.windows:
        left, right = clock.x(window.start_s), clock.x(window.end_s)
        weight = window.weights_percent.get(canary, 0)
        parts.append(box(left, y(weight), right + 0.3, base, CANARY, opacity=0.45 if weight else 0))
        mine, theirs = (window.counts.get(name, ZERO).requests for name in (canary, stable))
        # A shadow's requests are copies, so they are no share of the callers'.
        share = 100 * mine / (mine + theirs) if mine + theirs >= SHARE_MIN_REQUESTS and weight else math.nan
        told = f"{share:.1f} % of {mine + theirs:,} requests went to {canary}, its weight is {weight} %"
        observed.append(Piece(window.start_s, window.end_s, share, told))
    for stage in line.stages:
        middle = (clock.x(stage.start_s) + clock.x(stage.end_s)) / 2
        height = y(stage.weight_percent) - 6 if stage.weight_percent < 80 else top + 16
        parts.append(upright(clock.x(stage.start_s), top, base))
        parts.append(text(middle, height, stage.title, kind="value", anchor="middle"))
    levels = (level(y(percent), f"{percent} %") for percent in (0, 50, 100))
    return svg(base + 26, *parts, *levels, curve(clock, observed, y, "#30343b", dashed=True), clock.labels(base))


def share(line: Timeline, clock: Clock, event: str, *, limit: float | None) -> str:
    """Draw the share of requests with an event (`errors`, `slow`, `rejected`) in both arms, and its objective."""
    top, base = 12.0, 120.0
    drawn = {
        colour: [
            Piece(start_s, end_s, value, f"{name}: {hits:,} of {requests:,} requests, {100 * value:.3g} %")
            for start_s, end_s, hits, requests in _events(line, name, event)
            for value in (hits / requests if requests else math.nan,)
        ]
        for colour, name in _arms(line)
    }
    highest = max((piece.value for pieces in drawn.values() for piece in pieces if piece.value > 0), default=0.0)
    full = min(1.0, nice(max(highest, 1.4 * (limit or 0.0), 0.001)))

    def y(value: float) -> float:
        return base - value / full * (base - top)

    levels = (level(y(part * full), f"{100 * part * full:.3g} %") for part in (0, 0.5, 1))
    objective = level(y(limit), f"objective {100 * limit:.3g} %", kind="limit") if limit is not None else ""
    curves = (curve(clock, pieces, y, colour) for colour, pieces in drawn.items())
    return svg(base + 26, *levels, _marks(line, clock, top, base), objective, *curves, clock.labels(base))


def latency(line: Timeline, clock: Clock) -> str:
    """Draw the bucket edges below which half (dashed) and 99 % (solid) of the latencies are, on a scale of buckets."""
    top, base = 12.0, 170.0
    scale = line.final.scale
    edges = (*scale.edges_ms, math.inf)

    def y(edge: float) -> float:
        return base - (edges.index(edge) + 1) / len(edges) * (base - top)

    apart = math.ceil(len(scale.edges_ms) / LATENCY_LABELS)
    labelled = [edge for index, edge in enumerate(scale.edges_ms, start=1) if (scale.slo_bucket - index) % apart == 0]
    parts = [level(y(edge), f"{edge:g} ms") for edge in labelled]
    parts.append(level(y(math.inf), "slower"))
    beyond = (y(edges[scale.slo_bucket - 1]) + y(edges[scale.slo_bucket])) / 2
    parts += [box(LEFT, top, WIDTH - RIGHT, beyond, "#c8322b", opacity=0.07), _marks(line, clock, top, base)]
    for colour, name in _arms(line):
        for part, dashed in ((0.5, True), (0.99, False)):
            pieces = [
                Piece(window.start_s, window.end_s, edge, f"{name}: {part:.0%} of answers took at most {edge:g} ms")
                for window in line.windows
                for edge in (quantile_edge_ms(window.counts.get(name, ZERO).latency, part, scale.edges_ms),)
            ]
            parts.append(curve(clock, pieces, y, colour, dashed=dashed))
    return svg(base + 26, *parts, clock.labels(base))


def verdicts(line: Timeline, clock: Clock) -> str:
    """Draw each gate's verdict over time, one row per gate."""
    names = list(dict.fromkeys(result.name for window in line.windows for result in window.verdicts))
    row, top = 21.0, 4.0
    base = top + row * max(1, len(names))
    parts = [text(LEFT - 8, top + row * index + 15, shortened(name), told=name) for index, name in enumerate(names)]
    for window in line.windows:
        for result in window.verdicts:
            up = top + row * names.index(result.name)
            told = f"{result.name}, {result.verdict}{', dry run' if result.dry_run else ''}: {result.reason}"
            colour, opacity = VERDICT_COLOURS[result.verdict], 0.35 if result.dry_run else 1
            left, right = clock.x(window.start_s), clock.x(window.end_s) + 0.3
            parts.append(box(left, up + 2, right, up + row - 2, colour, told=told, opacity=opacity))
    return svg(base + 26, *parts, _marks(line, clock, top, base), clock.labels(base))


def scores(stage: Stage, stable: str, canary: str) -> str:
    """Draw both score histograms of one step as shares of the rows: stable filled, the canary as an outline."""
    top, base, left, right = 6.0, 104.0, 6.0, 244.0
    theirs, mine = (_shares(stage.counts.get(name, ZERO)) for name in (stable, canary))
    highest = max(*theirs, *mine) or 1.0
    cell = (right - left) / len(mine)

    def y(part: float) -> float:
        return base - part / highest * (base - top)

    bars = [
        box(left + index * cell + 0.6, y(part), left + (index + 1) * cell - 0.6, base, STABLE, opacity=0.38)
        for index, part in enumerate(theirs)
    ]
    path = " ".join(f"V{y(part):.1f} H{left + (index + 1) * cell:.1f}" for index, part in enumerate(mine))
    outline = f'<path d="M{left},{base} {path} V{base}" fill="none" stroke="{CANARY}" stroke-width="1.8"/>'
    ground = f'<line x1="{left}" x2="{right}" y1="{base}" y2="{base}" class="axis"/>'
    labels = (
        text(left + at * (right - left), base + 15, words, anchor=anchor)
        for at, words, anchor in ((0.0, "lowest score", "start"), (1.0, "highest score", "end"))
    )
    return svg(base + 20, *bars, outline if any(mine) else "", ground, *labels, width=250)


def _arms(line: Timeline) -> tuple[tuple[str, str], tuple[str, str]]:
    return (STABLE, line.final.stable), (CANARY, line.final.canary)


def _events(line: Timeline, name: str, event: str) -> Iterator[tuple[float, float, int, int]]:
    for window in line.windows:
        counts = window.counts.get(name, ZERO)
        yield window.start_s, window.end_s, int(getattr(counts, event)), counts.requests


def _shares(counts: Counts) -> list[float]:
    rows = sum(counts.scores)
    return [count / rows if rows else 0.0 for count in counts.scores]


def _marks(line: Timeline, clock: Clock, top: float, base: float) -> str:
    return "".join(upright(clock.x(stage.start_s), top, base) for stage in line.stages)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time axis that all charts share: seconds to pixels."""

    start_s: float
    end_s: float

    def x(self, at_s: float) -> float:
        """Return the x coordinate of a moment in pixels."""
        return LEFT + (at_s - self.start_s) / (self.end_s - self.start_s) * (WIDTH - LEFT - RIGHT)

    def labels(self, base: float) -> str:
        """Draw at most a dozen labels of the time since the start, below `base`."""
        length_s = self.end_s - self.start_s
        spacing_s = next((step for step in _SPACINGS_S if length_s / step <= 12), _SPACINGS_S[-1])
        parts = []
        for index in range(int(length_s // spacing_s) + 1):
            x = self.x(self.start_s + index * spacing_s)
            anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"  # the last label would be cut off
            parts.append(text(x, base + 17, duration(index * spacing_s), anchor=anchor))
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Piece:
    """One window of a curve: its value, NaN if there is none, and the tooltip."""

    start_s: float
    end_s: float
    value: float
    told: str


def duration(seconds: float) -> str:
    """Format a duration: 45s, 3m 20s, 2h 5m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if minutes else f"{hours}h"


def nice(value: float) -> float:
    """Round a positive number up to 1, 2, 4, 6 or 10 times a power of ten; half of it is then a round number too."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 10) if value <= step * power * (1 + 1e-9))


def svg(height: float, *parts: str, width: float = WIDTH) -> str:
    """Join the parts of a drawing."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img">{"".join(parts)}</svg>'


def text(x: float, y: float, words: str, *, kind: str = "label", anchor: str = "end", told: str = "") -> str:
    """Draw text; `anchor` is the end of it that is placed at x; `told` is its tooltip."""
    tooltip = f"<title>{escape(told)}</title>" if told else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{tooltip}{escape(words)}</text>'


def shortened(name: str) -> str:
    """Return a name that has room left of the charts."""
    return name if len(name) <= LABEL_LETTERS else f"{name[: LABEL_LETTERS - 1]}…"


def box(
    left: float, top: float, right: float, bottom: float, colour: str, *, told: str = "", opacity: float = 1
) -> str:
    """Draw a filled rectangle; `told` is its tooltip."""
    size = f'x="{left:.1f}" y="{top:.1f}" width="{max(0.0, right - left):.1f}" height="{max(0.0, bottom - top):.1f}"'
    faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect {size} fill="{colour}"{faint}>{f"<title>{escape(told)}</title>" if told else ""}</rect>'


def upright(x: float, top: float, bottom: float) -> str:
    """Draw the vertical line at the start of a step."""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="mark"/>'


def level(y: float, label: str, *, kind: str = "grid") -> str:
    """Draw a horizontal line over the whole chart with a label beside it; an objective has its label above the line."""
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>'
    if kind == "grid":
        return line + text(LEFT - 8, y + 4, label)
    return line + text(LEFT + 5, y - 5, label, kind=f"{kind}-text", anchor="start")


def curve(
    clock: Clock, pieces: Iterable[Piece], y: Callable[[float], float], colour: str, *, dashed: bool = False
) -> str:
    """Draw a stepped line, one level per window, with a gap where there is no value."""
    path, targets, pen_down = [], [], False
    for piece in pieces:
        if math.isnan(piece.value):
            pen_down = False
            continue
        left, right, height = clock.x(piece.start_s), clock.x(piece.end_s), y(piece.value)
        path.append(f"{'L' if pen_down else 'M'}{left:.1f},{height:.1f} H{right:.1f}")
        targets.append(box(left, height - 6, right, height + 6, colour, told=piece.told, opacity=0))
        pen_down = True
    style = ' stroke-dasharray="4 3" stroke-width="1.4"' if dashed else ' stroke-width="2"'
    return (
        f'<path d="{" ".join(path)}" fill="none" stroke="{colour}"{style} stroke-linejoin="round"/>{"".join(targets)}'
    )
