"""Measure this project beside its peers, in one run on two cores, and write docs/benchmarks.md and its plot."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import servers as known
from benchmarks.corpus import Corpus, load_features, prepare_corpus
from benchmarks.document import number, render, update_document
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.goals import judge
from benchmarks.machine import machine_lines
from benchmarks.peer_environments import make_environments
from benchmarks.profile import profile
from benchmarks.redis_server import redis_server
from benchmarks.rounds import CLIENT_CPU, QUICK, Durations, run_rounds
from benchmarks.server import Server

ROOT = Path(__file__).resolve().parent.parent
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
    try:
        if len(os.sched_getaffinity(0)) < 2:
            raise MeasurementError("two cores are needed: one for the server, one for the client")
        began_s = time.monotonic()
        (_quick if quick else _full)(rounds)
        _say(f"done in {time.monotonic() - began_s:.0f} s")
    except BenchmarkError as error:
        screen.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _full(rounds: int) -> None:
    make_environments(ROOT, ("fastapi", "bentoml", "kserve"), say=_say)
    directory = ROOT / "var" / "bench"
    corpus = prepare_corpus(ROOT, directory, say=_say)
    durations = Durations(rounds=rounds)
    with _servers(corpus, directory) as servers:
        measured = run_rounds(servers, corpus, durations, directory, say=_say)
    measured.write(directory / "results.json")
    _say("profiling")
    try:
        table = profile(known.project(ROOT, corpus), duration_s=8, logs=directory)
    except MeasurementError as error:  # py-spy may lack the right to look into a process; the figures stand without it
        table = [f"No profile was taken: {error}"]
    outcomes = judge(measured)
    update_document(ROOT / "docs" / "benchmarks.md", render(measured, outcomes, durations, machine_lines(ROOT), table))
    from benchmarks.document_plot import draw

    draw(ROOT / "docs" / "benchmarks.png", measured)
    for outcome in outcomes:
        verdict = "met    " if outcome.met else "NOT MET"
        _say(f"{verdict}  {outcome.goal.text}: {outcome.value:.3g}{outcome.goal.unit} (wanted {outcome.goal.wanted:g})")


def _quick(_rounds: int) -> None:
    make_environments(ROOT, ("fastapi",), say=_say)
    directory = ROOT / "var" / "bench"
    corpus = prepare_corpus(ROOT, directory, say=_say)
    servers = [known.bare(ROOT, corpus), known.project(ROOT, corpus), known.fastapi(ROOT, corpus)]
    measured = run_rounds(servers, corpus, QUICK, directory, say=_say)
    for key, title in measured.titles.items():
        rates = ", ".join(f"{name} {number(values[-1])}" for name, values in measured.values[key].items())
        _say(f"{title}: {rates}")


@contextmanager
def _servers(corpus: Corpus, directory: Path) -> Iterator[list[Server]]:
    with redis_server(directory / "redis.log", cpu=CLIENT_CPU) as url:
        load_features(ROOT, url)
        yield known.all_servers(ROOT, corpus, redis_url=url)


def _say(line: str) -> None:
    screen.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
