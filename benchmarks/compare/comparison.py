"""The comparison that `make bench` runs: environments, inputs, rounds, profile, document.

In each round every server is started on its core, measured, and stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from xgboost import Booster

from benchmarks.compare import servers as known
from benchmarks.compare.document import draw, machine_lines, number, render, update_document
from benchmarks.compare.goals import judge
from benchmarks.compare.inputs import Inputs, load_features, prepare_inputs
from benchmarks.compare.measurement import QUICK, Durations, ServerMeasurement
from benchmarks.compare.profile import profile
from benchmarks.compare.queries import sampled
from benchmarks.compare.results import Results
from benchmarks.compare.server import CLIENT_CPU, SERVER_CPU, RunningServer, Server
from benchmarks.compare.servers import make_environments
from benchmarks.errors import MeasurementError
from benchmarks.programs import RedisServer

ROOT = Path(__file__).resolve().parents[2]


def compare(rounds: int, *, say: Callable[[str], None]) -> None:
    """Run the comparison; write docs/benchmarks.md and its plot. Raises BenchmarkError, having written nothing."""
    make_environments(ROOT, ("fastapi", "bentoml", "kserve", "litserve"), say=say)
    directory = ROOT / "var" / "bench"
    inputs = prepare_inputs(ROOT, directory, say=say)
    durations = Durations(rounds=rounds)
    with _servers(inputs, directory) as servers:
        measured = run_rounds(servers, inputs, durations, directory, say=say)
    measured.write(directory / "results.json")
    say("profiling")
    try:
        table = profile(known.project(ROOT, inputs), duration_s=8, logs=directory)
    except MeasurementError as error:  # py-spy may lack the permission; the other figures are valid without it
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
    inputs = prepare_inputs(ROOT, directory, say=say)
    servers = [known.bare(ROOT, inputs), known.project(ROOT, inputs), known.fastapi(ROOT, inputs)]
    measured = run_rounds(servers, inputs, QUICK, directory, say=say)
    for key, title in measured.titles.items():
        rates = ", ".join(f"{name} {number(values[-1])}" for name, values in measured.values[key].items())
        say(f"{title}: {rates}")


@contextmanager
def _servers(inputs: Inputs, directory: Path) -> Iterator[list[Server]]:
    with RedisServer(cpu=CLIENT_CPU) as redis:
        load_features(ROOT, redis.url)
        yield known.all_servers(ROOT, inputs, redis_url=redis.url)


def run_rounds(
    servers: Sequence[Server], inputs: Inputs, durations: Durations, logs: Path, *, say: Callable[[str], None]
) -> Results:
    """Measure everything, interleaved; each round begins with another server. Raises MeasurementError for any error."""
    measured = Results({server.key: server.title for server in servers})
    reference = _reference(inputs)
    for round_number in range(durations.rounds):
        first = round_number * len(servers) // durations.rounds
        for server in [*servers[first:], *servers[:first]]:
            say(f"round {round_number + 1} of {durations.rounds}: {server.title}")
            with RunningServer(server, cpu=SERVER_CPU, log=logs / f"{server.key}.log") as running:
                ServerMeasurement(server, running, inputs, durations, measured, round_number).measure(reference)
    return measured


def _reference(inputs: Inputs) -> list[float]:
    """Return XGBoost's own probabilities for the sample."""
    booster = Booster(model_file=str(inputs.model))
    rows = np.ascontiguousarray(inputs.rows[list(sampled(inputs))])
    return [float(score) for score in booster.inplace_predict(rows)]
