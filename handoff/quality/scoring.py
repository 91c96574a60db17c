"""The metrics of labelled predictions, for each task, with bootstrap intervals: pure functions of arrays.

Intervals are percentiles of a bootstrap over keys, not over rows: several predictions for one key are no independent
evidence (a cluster bootstrap; Davison and Hinkley 1997, 3.8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from custom_runtime.schema import TaskKind
from handoff.evaluation.measures import INTERVAL_COLUMNS, losses, value_of, weighted_auc
from handoff.quality.results import ClassQuality, Measure

REPLICATES = 400
TOP_SHARE = 0.1
METRICS: Mapping[TaskKind, tuple[str, ...]] = {
    "binary": ("auc", "log_loss", "brier", "calibration", "lift"),
    "multiclass": ("accuracy", "log_loss", "brier", "macro_auc"),
    "regression": ("mae", "rmse", "r2", "calibration", "coverage"),
}
CLASS_METRICS = ("log_loss", "accuracy", "auc", "calibration")

Floats = NDArray[np.float64]
Metric = Callable[[Floats], float]
"""A metric as a function of how often each row counts, [n]."""


def measures(task: TaskKind, truth: NDArray[Any], answers: Floats, keys: Any, *, seed: int = 0) -> dict[str, Measure]:
    """Return every metric of a task with its interval. truth, answers: as in evaluation/measures.py.

    keys [n]: rows of one key are drawn together. calibration: the observed rate (or mean) minus the predicted one.
    lift: the rate in the tenth with the highest scores, over the overall rate. coverage: the share of a regression's
    values inside their interval, where it has one.
    """
    found = with_intervals(_metrics(task, truth, answers), keys, rows=len(truth), seed=seed)
    missing = Measure(value=None, low=None, high=None)
    return {name: found.get(name, missing) for name in METRICS[task]}


def class_qualities(
    labels: Sequence[str], truth: NDArray[Any], answers: Floats, keys: Any, *, fewest: int, seed: int = 0
) -> tuple[ClassQuality, ...]:
    """Return each class: log loss and accuracy of its own rows, and it against the rest (AUC, calibration).

    A class with fewer labels than `fewest` has no metrics.
    """
    parts = losses("multiclass", truth, answers)
    found = []
    for place, label in enumerate(labels):
        own = (truth == place).astype(np.float64)
        count = int(own.sum())
        metrics: dict[str, Metric] = {}
        if count >= fewest:
            metrics = {
                "log_loss": _mean(parts["log_loss"], own),
                "accuracy": _mean(parts["accuracy"], own),
                "calibration": _mean(own - answers[:, place]),
            }
            if count < len(truth):
                metrics["auc"] = weighted_auc(own, answers[:, place])
        measured = with_intervals(metrics, keys, rows=len(truth), seed=seed)
        missing = Measure(value=None, low=None, high=None)
        found.append(
            ClassQuality(
                label=label, labels=count, measures={name: measured.get(name, missing) for name in CLASS_METRICS}
            )
        )
    return tuple(found)


def with_intervals(metrics: Mapping[str, Metric], keys: Any, *, rows: int, seed: int = 0) -> dict[str, Measure]:
    """Return the value of each metric on all rows, and its 95 % interval."""
    if not metrics:
        return {}
    codes, _ = pd.factorize(np.asarray(keys))
    units = int(codes.max()) + 1
    random = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(REPLICATES):
        drawn = np.bincount(random.integers(units, size=units), minlength=units).astype(np.float64)
        weights = drawn[codes]
        for name, metric in metrics.items():
            samples[name].append(metric(weights))
    found = {}
    for name, metric in metrics.items():
        values = np.array(samples[name])
        known = values[np.isfinite(values)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (None, None)
        found[name] = Measure(
            value=metric(np.ones(rows)),
            low=None if low is None else float(low),
            high=None if high is None else float(high),
        )
    return found


def _metrics(task: TaskKind, truth: NDArray[Any], answers: Floats) -> dict[str, Metric]:
    parts = losses(task, truth, answers)
    if task == "regression":
        squared = _mean(parts["mse"])
        metrics = {
            "mae": _mean(parts["mae"]),
            "rmse": lambda weights: squared(weights) ** 0.5,
            "calibration": _mean(truth - value_of(answers)),
        }
        if answers.shape[1] == INTERVAL_COLUMNS:
            inside = (answers[:, 0] <= truth) & (truth <= answers[:, 2])
            metrics["coverage"] = _mean(inside.astype(np.float64))
        if np.ptp(truth) > 0:
            metrics["r2"] = _explained(truth, squared)
        return metrics
    metrics = {"log_loss": _mean(parts["log_loss"]), "brier": _mean(parts["brier"])}
    if task == "multiclass":
        places = [place for place in range(answers.shape[1]) if 0 < (truth == place).sum() < len(truth)]
        areas = [weighted_auc(truth == place, answers[:, place]) for place in places]
        metrics["accuracy"] = _mean(parts["accuracy"])
        if areas:
            metrics["macro_auc"] = lambda weights: float(np.mean([area(weights) for area in areas]))
        return metrics
    scores, positive = answers[:, 0], truth.astype(np.float64)
    metrics["calibration"] = _mean(positive - scores)
    if positive.any() and not positive.all():
        metrics["auc"] = weighted_auc(truth, scores)
        metrics["lift"] = _lift(positive, scores)
    return metrics


def _mean(values: Floats, rows: Floats | None = None) -> Metric:
    """Return the weighted mean of `values`; rows: 1.0 where a row belongs to it."""
    chosen = np.ones(len(values)) if rows is None else rows

    def mean(weights: Floats) -> float:
        counted = weights * chosen
        total = counted.sum()
        return float(counted @ values / total) if total else float("nan")

    return mean


def _explained(truth: Floats, squared: Metric) -> Metric:
    """Return R2: the share of the truth's variance that the predictions explain."""

    def share(weights: Floats) -> float:
        centre = weights @ truth / weights.sum()
        variance = float(weights @ (truth - centre) ** 2 / weights.sum())
        return 1 - squared(weights) / variance if variance else float("nan")

    return share


def _lift(positive: Floats, scores: Floats) -> Metric:
    top = np.zeros(len(scores))
    top[np.argsort(-scores, kind="stable")[: max(1, round(TOP_SHARE * len(scores)))]] = 1.0

    def lift(weights: Floats) -> float:
        rate = float(weights @ positive / weights.sum())
        chosen = weights * top
        return float(chosen @ positive / chosen.sum() / rate) if rate and chosen.sum() else float("nan")

    return lift
