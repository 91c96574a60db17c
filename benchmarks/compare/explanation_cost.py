"""What explanations cost: the P99 of plain requests with and without explanations beside them, and the time of a row.

    python -m benchmarks.compare.explanation_cost --rounds 5 --seconds 6

Takes the model and the features that `make serve` leaves in var/. The server runs on core 0, both clients on core 1. In
each round plain /predict requests are sent at a fixed rate twice, in one order and then the other: alone, and while one
caller asks for explanations without a pause. Then the model's own explainer is timed without a server. Prints tables.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.compare.closed_loop import Loop, closed_loop
from benchmarks.compare.queries import Query
from benchmarks.compare.server import CLIENT_CPU, SERVER_CPU, RunningServer, Server
from benchmarks.compare.servers import NO_DRAIN, PORTS
from benchmarks.errors import MeasurementError
from benchmarks.load.open_loop import run_load
from benchmarks.load.result import LoadPlan
from benchmarks.load.target import Protocol, key_bodies, path_of
from custom_runtime.active import CONTRACT
from custom_runtime.model.bundle import read_bundle
from custom_runtime.model.encoding import WIDTH
from custom_runtime.model.explaining import open_explainer

ROOT = Path(__file__).resolve().parents[2]
KEYS = range(1, 7044)
BATCHES = (1, 16, 1_000)
REPEATS = 20


def main(
    rounds: Annotated[int, typer.Option(help="How often each case is measured.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="How long one case lasts.", min=1.0)] = 6.0,
    qps: Annotated[float, typer.Option(help="Plain requests a second.")] = 1_000.0,
    var: Annotated[Path, typer.Option(help="Where bundle/ and features.db are.")] = ROOT / "var",
) -> None:
    """Measure and print the tables."""
    print("| rows at once | us per explained row |\n|---|---|")
    for rows, spent_us in row_costs_us(var / "bundle").items():
        print(f"| {rows:,} | {spent_us:.0f} |")
    alone_ms, beside_ms, per_s = _p99s(var, rounds=rounds, seconds=seconds, qps=qps)
    ratios = [beside / alone for alone, beside in zip(alone_ms, beside_ms, strict=True)]
    print(f"\n| plain requests at {qps:,.0f}/s, {rounds} rounds | P99, ms: median | range |\n|---|---|---|")
    for title, found in (("alone", alone_ms), ("beside explanations", beside_ms)):
        print(f"| {title} | {statistics.median(found):.2f} | {min(found):.2f} to {max(found):.2f} |")
    print(f"| ratio within a round | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    print(f"\nexplanations answered meanwhile: {statistics.median(per_s):.0f} a second (one caller, one row each)")


def row_costs_us(bundle: Path) -> dict[int, float]:
    """Return rows at once -> microseconds for each, the median of REPEATS calls of the bundle's explainer."""
    explainer = open_explainer(read_bundle(bundle))
    random = np.random.default_rng(0)
    drawn = np.empty((max(BATCHES), WIDTH), dtype=np.float32)
    for place, feature in enumerate(CONTRACT.features):
        if feature.is_category:
            drawn[:, place] = random.integers(len(feature.categories), size=len(drawn))
        else:
            drawn[:, place] = random.uniform(feature.minimum, feature.maximum, size=len(drawn))
    explainer.explain(drawn[:1])  # loads the library
    costs = {}
    for rows in BATCHES:
        took_s = []
        for _ in range(REPEATS):
            began_s = time.perf_counter()
            explainer.explain(drawn[:rows])
            took_s.append(time.perf_counter() - began_s)
        costs[rows] = statistics.median(took_s) * 1e6 / rows
    return costs


def _p99s(var: Path, *, rounds: int, seconds: float, qps: float) -> tuple[list[float], list[float], list[float]]:
    """Return P99 alone and beside explanations by round, and the explanations a second."""
    bodies = tuple(key_bodies(Protocol.PREDICT, CONTRACT.name, KEYS))
    plain = Query(path_of(Protocol.PREDICT, CONTRACT.name), bodies, read=lambda answer: 0.0)
    environment = (
        PORTS
        | NO_DRAIN
        | {
            "SERVING_BUNDLE": str(var / "bundle"),
            "SERVING_FEATURE_STORE": f"sqlite:///{var / 'features.db'}",
        }
    )
    server = Server(
        key="project",
        title="this project",
        command=(sys.executable, "scripts/serve.py"),
        directory=ROOT,
        ready_path=f"/v2/models/{CONTRACT.name}/ready",
        queries={"predict": plain},
        environment=environment,
    )
    found: dict[bool, list[float]] = {False: [], True: []}
    per_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder, RunningServer(server, cpu=SERVER_CPU, log=Path(folder) / "log") as on:
        plan = LoadPlan(
            target=on.target(plain),
            path=plain.path,
            bodies=bodies,
            is_grpc=False,
            qps=qps,
            duration_s=seconds,
            cpu=CLIENT_CPU,
        )
        loop = Loop(plan.target, f"{plain.path}?explain=5", bodies, connections=1, cpu=CLIENT_CPU)
        for number in range(rounds):
            for beside in (False, True) if number % 2 == 0 else (True, False):
                one = replace(plan, seed=number)
                if beside:
                    with closed_loop(loop) as results:
                        found[beside].append(_p99_ms(one))
                    per_s.append(results[0].requests_per_s)
                else:
                    found[beside].append(_p99_ms(one))
    return found[False], found[True], per_s


def _p99_ms(plan: LoadPlan) -> float:
    result = run_load(plan)
    if result.failures:
        raise MeasurementError(f"{result.failures} of {result.requests} requests failed: {result.example}")
    return result.summary.p99_ms


if __name__ == "__main__":
    typer.run(main)
