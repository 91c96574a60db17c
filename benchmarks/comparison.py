"""The comparison: environments, corpus, rounds, profile, document; what `make bench` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import servers as known
from benchmarks.corpus import Corpus, load_features, prepare_corpus
from benchmarks.document import number, render, update_document
from benchmarks.document_plot import draw
from benchmarks.durations import QUICK, Durations
from benchmarks.errors import MeasurementError
from benchmarks.goals import judge
from benchmarks.machine import machine_lines
from benchmarks.peer_environments import make_environments
from benchmarks.profile import profile
from benchmarks.redis_server import redis_server
from benchmarks.rounds import run_rounds
from benchmarks.server import CLIENT_CPU, Server

ROOT = Path(__file__).resolve().parent.parent


def compare(rounds: int, *, say: Callable[[str], None]) -> None:
    """Run the comparison; write docs/benchmarks.md and its plot. Raises BenchmarkError, having written nothing."""
    make_environments(ROOT, ("fastapi", "bentoml", "kserve"), say=say)
    directory = ROOT / "var" / "bench"
    corpus = prepare_corpus(ROOT, directory, say=say)
    durations = Durations(rounds=rounds)
    with _servers(corpus, directory) as servers:
        measured = run_rounds(servers, corpus, durations, directory, say=say)
    measured.write(directory / "results.json")
    say("profiling")
    try:
        table = profile(known.project(ROOT, corpus), duration_s=8, logs=directory)
    except MeasurementError as error:  # py-spy may lack the right to look into a process; the figures stand without it
        table = [f"No profile was taken: {error}"]
    outcomes = judge(measured)
    update_document(ROOT / "docs" / "benchmarks.md", render(measured, outcomes, durations, machine_lines(ROOT), table))
    draw(ROOT / "docs" / "benchmarks.png", measured)
    for outcome in outcomes:
        verdict = "met    " if outcome.met else "NOT MET"
        say(f"{verdict}  {outcome.goal.text}: {outcome.value:.3g}{outcome.goal.unit} (wanted {outcome.goal.wanted:g})")


def check(*, say: Callable[[str], None]) -> None:
    """Run one short round of this project, FastAPI and the bare app, and write nothing. Raises BenchmarkError."""
    make_environments(ROOT, ("fastapi",), say=say)
    directory = ROOT / "var" / "bench"
    corpus = prepare_corpus(ROOT, directory, say=say)
    servers = [known.bare(ROOT, corpus), known.project(ROOT, corpus), known.fastapi(ROOT, corpus)]
    measured = run_rounds(servers, corpus, QUICK, directory, say=say)
    for key, title in measured.titles.items():
        rates = ", ".join(f"{name} {number(values[-1])}" for name, values in measured.values[key].items())
        say(f"{title}: {rates}")


@contextmanager
def _servers(corpus: Corpus, directory: Path) -> Iterator[list[Server]]:
    with redis_server(directory / "redis.log", cpu=CLIENT_CPU) as url:
        load_features(ROOT, url)
        yield known.all_servers(ROOT, corpus, redis_url=url)
