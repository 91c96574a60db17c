"""Displays a rollout in the terminal: its state, the gates' results and the events so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import strftime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rollout.analysis.verdict import GateResult, Verdict
from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import Phase, RolloutState

BAR_CELLS = 50
REMINDER_S = 30.0
"""How long a log stays silent while nothing changes; then it says again what the rollout waits for."""
COLOURS: Mapping[Verdict, str] = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NO_DATA: "yellow",
    Verdict.ERROR: "magenta",
}


def picture(state: RolloutState, results: Sequence[GateResult] = ()) -> RenderableType:
    """Return one screen: the weights as a bar, the phase, and a line for each gate."""
    bar = weights_bar(state.weights, state)
    where = "at 0 %" if state.step < 0 else f"step {state.step + 1} of {len(state.plan.steps)}"
    head = Text(
        f"{state.phase.value}, {where}, {state.timers.step_s:.0f} s and {state.canary_requests} canary requests"
    )
    table = Table(box=None, show_header=False, padding=(0, 1))
    for result in results:
        name = f"{result.name} (dry run)" if result.dry_run else result.name
        table.add_row(name, Text(result.verdict.value, COLOURS[result.verdict]), result.reason)
    return Group(bar, head, Text(state.message, "dim"), table)


def weights_bar(percents: Mapping[str, int], state: RolloutState) -> Text:
    """Draw each predictor's share of the requests; predictors of no part in the rollout are named after the bar."""
    if not percents:
        return Text("not known", "dim")
    canary = percents.get(state.canary, 0)
    cells = round(canary / 100 * BAR_CELLS)
    others = [f"{name} {share} %" for name, share in percents.items() if name not in (state.stable, state.canary)]
    return Text.assemble(
        (f"{state.stable} {percents.get(state.stable, 0)} % ", "bold"),
        ("█" * (BAR_CELLS - cells), "blue"),
        ("█" * cells, "yellow" if state.phase is not Phase.BAKING else "green"),
        (f" {canary} % {state.canary}", "bold"),
        (f"  and {', '.join(others)}" if others else "", "red"),
    )


class Screen:
    """A subscriber that redraws one screen in a terminal; in other outputs it prints one line for each change.

    There it also prints, at least every REMINDER_S, what the rollout waits for.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._said_s = -REMINDER_S
        self._event = SAMPLE

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def notify(self, record: Record, state: RolloutState) -> None:
        """Show one record."""
        changed = record.event != SAMPLE
        if changed:
            self._event = record.event
        if changed or (not self._live.is_started and record.at_s - self._said_s >= REMINDER_S):
            self._said_s = record.at_s
            weights = _weights(record.weights_percent)
            if record.differs():
                weights = f"asked {weights}, mesh {_weights(record.mesh_percent)}"
            line = f"{strftime('%H:%M:%S')}  {self._event:<18} [{weights}] {record.message}"
            self._console.print(line, markup=False, soft_wrap=True)
        if self._live.is_started:
            self._live.update(picture(state, record.verdicts), refresh=True)


def _weights(percents: Mapping[str, int]) -> str:
    return " ".join(f"{name}={percent}" for name, percent in percents.items())
