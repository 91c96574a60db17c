"""`churn-serving soak`: serve under mixed traffic while the store and the workers fail; account for every request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.status import Status

from benchmarks.errors import BenchmarkError
from benchmarks.load.result import Output

if TYPE_CHECKING:
    from benchmarks.soak.result import SoakResult

screen = Console(stderr=True)


def soak(
    seconds: Annotated[float, typer.Option(help="Seconds of traffic.", min=5, envvar="SOAK_SECONDS")] = 600,
    qps: Annotated[float, typer.Option(help="Requests a second, all protocols together.", min=1)] = 300,
    workers: Annotated[int, typer.Option(help="Serving processes.", min=2)] = 2,
    seed: Annotated[int, typer.Option(help="The same seed gives the same faults.", min=0)] = 0,
    bundle: Annotated[Path, typer.Option(help="The model bundle.", envvar="SERVING_BUNDLE")] = Path("var/bundle"),
    directory: Annotated[Path, typer.Option(help="Where logs and the plot go.")] = Path("var/soak"),
    output: Annotated[Output, typer.Option("-o", "--output", help="What is printed.")] = Output.TEXT,
) -> None:
    """Kill, pause and restart the store, roll the workers, abandon requests; print a report and draw a plot.

    Exit code 0: every request was answered or refused, and nothing grew; 1: something was lost or leaked, or
    nothing ran.

    Example:
    churn-serving soak --seconds 60 --qps 300
    """
    # Seconds of imports that --help does not need.
    from benchmarks.soak.result import as_json, as_text, draw
    from benchmarks.soak.soak import SoakPlan
    from benchmarks.soak.soak import soak as run_soak
    from rollout.process import EndedBySignal, run_until_signal

    if not (bundle / "bundle.json").is_file():
        screen.print(
            f"error: {bundle} has no bundle.json; make one: `make serve`, or --bundle PATH", style="red", markup=False
        )
        raise typer.Exit(1)
    plan = SoakPlan(seconds, qps, bundle.resolve(), directory.resolve(), workers, seed)
    try:
        with Status("starting", console=screen) as status:
            result = run_until_signal(run_soak(plan, lambda so_far: status.update(_line(so_far))))
    except EndedBySignal as ended:
        raise typer.Exit(ended.exit_code) from None
    except BenchmarkError as error:
        screen.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    plot = directory / "soak.png"
    draw(plot, result)
    typer.echo(json.dumps(as_json(result, plot)) if output is Output.JSON else as_text(result, plot))
    raise typer.Exit(1 if result.complaints else 0)


def _line(result: SoakResult) -> str:
    return f"{len(result.outcomes):,} requests, {result.lost} lost, {len(result.faults)} faults"
