"""Measure this project beside its peers, in one run on two cores, and write docs/benchmarks.md and its plot."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.errors import BenchmarkError, MeasurementError

screen = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog="Example: python -m benchmarks --rounds 5")
def bench(
    rounds: Annotated[int, typer.Option(help="How often everything is measured.", min=1)] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="One short round of this project, FastAPI and the bare app; writes nothing.")
    ] = False,
) -> None:
    """Start each server on core 0, check that all agree, measure from core 1; medians over the rounds."""
    # On SIGTERM it stops the servers that it started, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Every load process imports this module again when it starts, so slow imports are inside the function.
    from benchmarks.compare.comparison import check, compare

    began_s = time.monotonic()
    try:
        if len(os.sched_getaffinity(0)) < 2:
            raise MeasurementError("two cores are needed: one for the server, one for the client")
        if quick:
            check(say=_say)
        else:
            compare(rounds, say=_say)
    except BenchmarkError as error:
        screen.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    _say(f"done in {time.monotonic() - began_s:.0f} s")


def _say(line: str) -> None:
    screen.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
