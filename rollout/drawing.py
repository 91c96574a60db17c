"""The few shapes that the charts of a report are made of, as SVG text: no library, no script, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 1060
LEFT: Final = 92
RIGHT: Final = 14
_SPACINGS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time axis that all charts share: seconds to pixels."""

    start_s: float
    end_s: float

    def x(self, at_s: float) -> float:
        """Return the pixel of a moment."""
        return LEFT + (at_s - self.start_s) / (self.end_s - self.start_s) * (WIDTH - LEFT - RIGHT)

    def labels(self, base: float) -> str:
        """Draw a dozen times since the start at most, below `base`."""
        length_s = self.end_s - self.start_s
        spacing_s = next((step for step in _SPACINGS_S if length_s / step <= 12), _SPACINGS_S[-1])
        parts = []
        for index in range(int(length_s // spacing_s) + 1):
            x = self.x(self.start_s + index * spacing_s)
            anchor = "end" if x > WIDTH - RIGHT - 20 else "middle"  # the last one would be cut off
            parts.append(text(x, base + 17, duration(index * spacing_s), anchor=anchor))
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Piece:
    """One window of a curve: its value, NaN where there is none, and what a pointer on it shows."""

    start_s: float
    end_s: float
    value: float
    told: str


def duration(seconds: float) -> str:
    """Write a length of time for a person: 45s, 3m 20s, 2h 5m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if minutes else f"{hours}h"


def nice(value: float) -> float:
    """Round a positive number up to 1, 2, 4, 6 or 10 times a power of ten: half of it is a round number too."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 10) if value <= step * power * (1 + 1e-9))


def svg(height: float, *parts: str, width: float = WIDTH) -> str:
    """Put a drawing together."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img">{"".join(parts)}</svg>'


def text(x: float, y: float, words: str, *, kind: str = "label", anchor: str = "end") -> str:
    """Draw words; `anchor` is the end of them that lies at x."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(
    left: float, top: float, right: float, bottom: float, colour: str, *, told: str = "", opacity: float = 1
) -> str:
    """Draw a filled rectangle; `told` shows when the pointer rests on it."""
    size = f'x="{left:.1f}" y="{top:.1f}" width="{max(0.0, right - left):.1f}" height="{max(0.0, bottom - top):.1f}"'
    faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<rect {size} fill="{colour}"{faint}>{f"<title>{escape(told)}</title>" if told else ""}</rect>'


def upright(x: float, top: float, bottom: float) -> str:
    """Draw the line at which a step begins."""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="mark"/>'


def level(y: float, label: str, *, kind: str = "grid") -> str:
    """Draw a horizontal line over the whole chart, named beside it; an objective is named above itself."""
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>'
    if kind == "grid":
        return line + text(LEFT - 8, y + 4, label)
    return line + text(LEFT + 5, y - 5, label, kind=f"{kind}-text", anchor="start")


def curve(
    clock: Clock, pieces: Iterable[Piece], y: Callable[[float], float], colour: str, *, dashed: bool = False
) -> str:
    """Draw a stepped line, one level a window, with a gap where there is no value."""
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
