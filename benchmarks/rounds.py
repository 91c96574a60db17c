"""The run itself: in each round every server is started on its core, visited, and stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from xgboost import Booster

from benchmarks.agreement import sampled
from benchmarks.corpus import Corpus
from benchmarks.durations import Durations
from benchmarks.results import Results
from benchmarks.server import SERVER_CPU, Running, Server
from benchmarks.visit import Visit


def run_rounds(
    servers: Sequence[Server], corpus: Corpus, durations: Durations, logs: Path, *, say: Callable[[str], None]
) -> Results:
    """Measure everything, interleaved; each round begins with another server. Raises MeasurementError for any error."""
    measured = Results({server.key: server.title for server in servers})
    reference = _reference(corpus)
    for round_number in range(durations.rounds):
        first = round_number * len(servers) // durations.rounds
        for server in [*servers[first:], *servers[:first]]:
            say(f"round {round_number + 1} of {durations.rounds}: {server.title}")
            with Running(server, cpu=SERVER_CPU, log=logs / f"{server.key}.log") as running:
                Visit(server, running, corpus, durations, measured, round_number).measure(reference)
    return measured


def _reference(corpus: Corpus) -> list[float]:
    """Return XGBoost's own probabilities for the sample."""
    booster = Booster(model_file=str(corpus.model))
    rows = np.ascontiguousarray(corpus.rows[list(sampled(corpus))])
    return [float(score) for score in booster.inplace_predict(rows)]
