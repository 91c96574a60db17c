"""A model beside the champion on the same rows: paired bootstrap intervals of the differences.

Both models see every bootstrap sample, so what the rows have in common cancels (Efron and Tibshirani 1993, chapter 13:
percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd

from handoff.evaluation.measures import (
    DECISIVE,
    HIGHER_IS_BETTER,
    Floats,
    Truth,
    losses,
    metrics,
    weighted_auc,
)
from handoff.evaluation.results import Comparison, Difference

REPLICATES = 1000
LEVEL = 0.95

Metric = Callable[[Floats], float]


def compare_answers(
    task: str,
    truth: Truth,
    answers: Floats,
    champion_answers: Floats,
    *,
    champion: str,
    note: str = "",
    replicates: int = REPLICATES,
    seed: int = 0,
    keys: Any = None,
) -> Comparison:
    """Compare two models' answers on the same rows in the metrics that decide.

    keys [n]: rows of one key are drawn together; None: each row is drawn by itself.
    """
    ours, theirs = _resampled(task, truth, answers), _resampled(task, truth, champion_answers)
    random = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in DECISIVE[task]}
    rows = len(truth)
    codes = np.arange(rows) if keys is None else pd.factorize(np.asarray(keys))[0]
    units = int(codes.max()) + 1
    for _ in range(replicates):
        weights = np.bincount(random.integers(units, size=units), minlength=units).astype(np.float64)[codes]
        for name, differences in samples.items():
            differences.append(ours[name](weights) - theirs[name](weights))
    mine, other = metrics(task, truth, answers), metrics(task, truth, champion_answers)
    found = []
    for name, differences in samples.items():
        tail = (1 - LEVEL) / 2
        low, high = (float(value) for value in np.nanquantile(differences, [tail, 1 - tail]))
        found.append(
            Difference(
                metric=name,
                model=mine[name],
                champion=other[name],
                difference=mine[name] - other[name],
                low=low,
                high=high,
                verdict=_verdict(name, low, high),
            )
        )
    return Comparison(champion=champion, rows=rows, replicates=replicates, differences=tuple(found), note=note)


def _resampled(task: str, truth: Truth, answers: Floats) -> dict[str, Metric]:
    """Return the metrics that decide, as functions of how often each row was drawn."""
    parts = losses(task, truth, answers)

    def mean_of(name: str) -> Metric:
        return lambda weights: float(weights @ parts[name] / weights.sum())

    found = {name: mean_of(name) for name in parts}
    if task == "regression":
        squared = found["mse"]
        found["rmse"] = lambda weights: squared(weights) ** 0.5
    if task == "binary":
        found["auc"] = weighted_auc(truth, answers[:, 0])
    return {name: found[name] for name in DECISIVE[task]}


def _verdict(name: str, low: float, high: float) -> Literal["better", "worse", "no difference shown"]:
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (low > 0) == (name in HIGHER_IS_BETTER) else "worse"
