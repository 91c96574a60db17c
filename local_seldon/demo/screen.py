"""What the demo shows: traffic and failures live, the promoter's own lines above, and a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from local_seldon.demo.load import Load, Tally

BAR_CELLS = 60
COLOURS = ("blue", "yellow", "magenta")
REFRESH_PER_S = 4


class Stage:
    """The live picture. weights: asked a few times a second; it must be quick and must not raise."""

    def __init__(self, console: Console, load: Load, weights: Callable[[], Mapping[str, int]]) -> None:
        self._console = console
        self._load = load
        self._weights = weights
        self._started_s = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._picture, refresh_per_second=REFRESH_PER_S, transient=True
        )

    def __enter__(self) -> Stage:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line above the picture."""
        self._console.print(Text(line), soft_wrap=True)

    def act(self, title: str) -> None:
        """Begin the next act."""
        self._console.print(Rule(Text(f"{time.monotonic() - self._started_s:5.0f} s  {title}", "bold"), align="left"))

    def _picture(self) -> RenderableType:
        weights = {name: percent for name, percent in self._weights().items() if percent}
        bar = Text()
        for index, (name, percent) in enumerate(weights.items()):
            bar.append(f" {name} {percent} % ", "bold").append(
                "█" * round(percent * BAR_CELLS / 100), COLOURS[index % 3]
            )
        tally = self._load.tally
        shares = ", ".join(f"{name} {tally.share(name):.1%}" for name in weights)
        counts = Text(f" {tally.sent:,} sent, {tally.answered:,} answered ({shares}), ")
        counts.append(f"{tally.failed:,} failed", "bold red" if tally.failed else "green")
        return Group(Rule(style="dim"), bar, counts)


def summary(tallies: Mapping[str, Tally], allowed: Mapping[str, str]) -> Table:
    """Return the table of all phases. allowed: the predictor whose failures a phase may show."""
    table = Table("phase", title="Every request, as the caller saw it", title_justify="left")
    for heading in ("sent", "answered", "failed", "by the bad version", "by anything else"):
        table.add_column(heading, justify="right")
    for phase, tally in tallies.items():
        bad = tally.failed_by(allowed.get(phase, ""))
        row = [f"{number:,}" for number in (tally.sent, tally.answered, tally.failed, bad, tally.failed - bad)]
        table.add_row(phase, *row, style="red" if tally.failed > bad else "")
    return table
