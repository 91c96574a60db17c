"""The goals: what this project's figures must be, as ratios to those of the other servers in the same run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.compare import results
from benchmarks.compare.results import Results
from benchmarks.compare.servers import BARE, BENTOML, FASTAPI, PROJECT, REDIS, STOCK

# 1.8 times 8,000 requests/s on a core on which the bare ASGI app answers 25,000: this share of what it answers here.
CAPACITY_SHARE = 1.8 * 8_000 / 25_000


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal. of: this project's figure; over: what it is divided by, None: nothing. at_least: else at most."""

    text: str
    of: tuple[str, str]
    over: tuple[str, str] | None
    wanted: float
    at_least: bool = True
    unit: str = "x"


GOALS = (
    Goal("/predict, SQLite, over FastAPI by hand", (PROJECT, results.PREDICT), (FASTAPI, results.PREDICT), 9),
    Goal("/predict, SQLite, over BentoML", (PROJECT, results.PREDICT), (BENTOML, results.PREDICT), 25),
    Goal("/predict, SQLite, over the bare ASGI app", (PROJECT, results.PREDICT), (BARE, results.PREDICT), 0.95),
    Goal("V2 REST over MLServer's xgboost runtime", (PROJECT, results.V2_REST), (STOCK, results.V2_REST), 10),
    Goal("V2 gRPC over MLServer's xgboost runtime", (PROJECT, results.V2_GRPC), (STOCK, results.V2_GRPC), 6),
    Goal("V2 REST over /predict", (PROJECT, results.V2_REST), (PROJECT, results.PREDICT), 0.85),
    Goal("V2 REST with outputs over /predict", (PROJECT, results.V2_OUTPUTS), (PROJECT, results.PREDICT), 0.75),
    Goal("V2 REST, binary, over /predict", (PROJECT, results.V2_BINARY), (PROJECT, results.PREDICT), 0.75),
    Goal("V2 gRPC over V2 REST", (PROJECT, results.V2_GRPC), (PROJECT, results.V2_REST), 0.8),
    Goal("/predict, Redis over SQLite", (REDIS, results.PREDICT), (PROJECT, results.PREDICT), 0.6),
    Goal(
        "SLO capacity over the bare ASGI app's rate (14,400 of 25,000)",
        (PROJECT, results.CAPACITY),
        (BARE, results.PREDICT),
        CAPACITY_SHARE,
    ),
    Goal("P99 at 1,000 requests/s", (PROJECT, results.P99_AT_1000), None, 4, at_least=False, unit=" ms"),
    Goal(
        "P99 at 500 requests/s beside 10,000-row batches",
        (PROJECT, results.P99_BESIDE_BATCHES),
        None,
        50,
        at_least=False,
        unit=" ms",
    ),
    Goal("start-up to ready", (PROJECT, results.STARTUP), None, 2.5, at_least=False, unit=" s"),
    Goal("resident memory", (PROJECT, results.RESIDENT), None, 300, at_least=False, unit=" MB"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A goal beside what was measured; values: one for each round."""

    goal: Goal
    value: float
    values: tuple[float, ...]

    @property
    def met(self) -> bool:
        """Whether the median over the rounds reaches the goal."""
        holds: Callable[[float, float], bool] = operator.ge if self.goal.at_least else operator.le
        return holds(self.value, self.goal.wanted)


def judge(measured: Results, goals: Sequence[Goal] = GOALS) -> list[Outcome]:
    """Return every goal whose figures were taken; a ratio is taken within each round, and its median counts."""
    return [
        Outcome(goal, median(values), tuple(values))
        for goal in goals
        if (values := _values(measured, goal)) is not None
    ]


def _values(measured: Results, goal: Goal) -> list[float] | None:
    wanted = [goal.of] if goal.over is None else [goal.of, goal.over]
    if not all(measured.has(*figure) for figure in wanted):
        return None
    figures = measured.rounds(*goal.of)
    if goal.over is None:
        return figures
    return [one / other for one, other in zip(figures, measured.rounds(*goal.over), strict=True)]
