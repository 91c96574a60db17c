"""Segments where a model fails: rows of one category, or of a quarter of a number, whose truth is not what it answered.

Compared in each segment, with intervals over keys (several predictions for one key are no independent evidence):

    calibration   the observed rate, or mean, minus the predicted one; of several classes, each one's
    log_loss      the log loss minus what the model's own probabilities say it is, their entropy
    mae           of a regression: the mean absolute error minus that of the other rows

A greater log loss by itself is no failure: where half of the customers leave, even the best model has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from handoff.evaluation.measures import EPSILON, losses, probabilities, value_of
from handoff.evaluation.report import number
from handoff.quality.results import Failing, FailingMetric
from handoff.quality.scoring import Floats

FEWEST_LABELS = 30
NUMBER_SEGMENTS = 4
NO_FEATURES = "The records hold no features (SERVING_RECORD_FEATURES=1), so no segments are compared."
# Of all comparisons together, one in twenty may be reported without a reason (Bonferroni).
_FAMILY_ERROR = 0.05
# Fewer expected rows of either kind have no mean that is normally distributed.
_FEWEST_EVENTS = 5.0

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What is compared: values [n] with what is expected of them [n]; None: with the mean of the other rows.

    variances [n]: of a value where the model is right; events [n]: how far from certain the model is (p (1 - p)).
    """

    metric: FailingMetric
    values: Floats
    expected: Floats | None = None
    label: str | None = None
    variances: Floats | None = None
    events: Floats | None = None
    is_two_sided: bool = True


class _Segment(NamedTuple):
    version: str
    feature: str
    name: str
    inside: Mask
    outside: Mask


def failing_segments(labelled: pd.DataFrame, answers: Floats, keys: Any) -> tuple[tuple[Failing, ...], str]:
    """Return the segments where a version fails, the greatest differences first, and a note.

    labelled: records with `truth`, numbered from 0; answers [n, columns] and keys [n]: theirs.
    """
    held = labelled.dropna(subset=["features"])
    if held.empty:
        return (), NO_FEATURES
    task = CONTRACT.task
    truth = held["truth"].to_numpy(dtype=np.float64 if task.kind == "regression" else np.int64)
    comparisons = _comparisons(truth, answers[held.index])
    customers, _ = pd.factorize(np.asarray(keys)[held.index])
    segments = list(_all_segments(held, customers))
    error = _FAMILY_ERROR / max(len(segments) * len(comparisons), 1)
    found = [
        failing
        for comparison in comparisons
        for segment in segments
        if (failing := _compare(comparison, segment, customers, error)) is not None
    ]
    note = f"{len(segments)} segments were compared; the limits hold for all of them together (Bonferroni)."
    return tuple(sorted(found, key=lambda failing: (failing.metric, -abs(failing.difference)))), note


def _comparisons(truth: NDArray[Any], answers: Floats) -> list[_Comparison]:
    task = CONTRACT.task
    parts = losses(task.kind, truth, answers)
    if task.kind == "regression":
        return [
            _Comparison("calibration", truth, value_of(answers)),
            _Comparison("mae", parts["mae"], is_two_sided=False),
        ]
    chances = probabilities(task.kind, answers)
    places = [1] if task.kind == "binary" else range(len(task.classes))
    surprise = -np.log(np.clip(chances, EPSILON, 1.0))
    entropy = (chances * surprise).sum(axis=1)
    return [
        *(
            _Comparison(
                "calibration",
                (truth == place).astype(np.float64),
                chances[:, place],
                label=None if task.kind == "binary" else task.classes[place],
                variances=chances[:, place] * (1 - chances[:, place]),
                events=chances[:, place] * (1 - chances[:, place]),
            )
            for place in places
        ),
        _Comparison(
            "log_loss",
            parts["log_loss"],
            entropy,
            variances=(chances * surprise**2).sum(axis=1) - entropy**2,
            events=(1 - (chances**2).sum(axis=1)) / 2,
            is_two_sided=False,
        ),
    ]


def _compare(comparison: _Comparison, segment: _Segment, customers: NDArray[np.int64], error: float) -> Failing | None:
    """Return the segment where its difference is shown, by Student's interval; None where it is not."""
    from scipy import stats

    inside, outside = segment.inside, segment.outside
    if comparison.events is not None and comparison.events[inside].sum() < _FEWEST_EVENTS:
        return None
    values = comparison.values[inside]
    if comparison.expected is None:
        others = comparison.values[outside]
        expected = others.mean()
        parts = (_variance(values, customers[inside]), _variance(others, customers[outside]))
        variance, freedom = sum(part for part, _ in parts), min(units for _, units in parts) - 1
    else:
        expected = comparison.expected[inside].mean()
        variance, units = _variance(values - comparison.expected[inside], customers[inside])
        freedom = units - 1
        if comparison.variances is not None:  # rows that happen to be alike vary less than they would again
            sums = np.bincount(customers[inside], weights=np.sqrt(comparison.variances[inside]))
            variance = max(variance, float((sums**2).sum()) / len(values) ** 2)  # one customer's rows are all alike
    difference = float(values.mean() - expected)
    half = float(stats.t.ppf(1 - error / (2 if comparison.is_two_sided else 1), freedom) * np.sqrt(variance))
    if not (difference - half > 0 or (comparison.is_two_sided and difference + half < 0)):
        return None
    return Failing(
        version=segment.version,
        feature=segment.feature,
        segment=segment.name,
        labels=len(values),
        metric=comparison.metric,
        label=comparison.label,
        value=float(values.mean()),
        expected=float(expected),
        difference=difference,
        low=difference - half,
        high=difference + half,
    )


def _variance(values: Floats, customers: NDArray[np.int64]) -> tuple[float, int]:
    """Return the variance of a mean whose rows come in clusters (Liang and Zeger 1986), and how many clusters."""
    codes, names = pd.factorize(customers)
    sums = np.bincount(codes, weights=values - values.mean())
    units = len(names)
    return float((sums**2).sum() / len(values) ** 2 * units / (units - 1)), units


def _all_segments(held: pd.DataFrame, customers: NDArray[np.int64]) -> Iterator[_Segment]:
    """Yield the segments of each version with enough customers inside and outside."""
    columns = pd.DataFrame(held["features"].tolist())
    versions = held["version"].to_numpy()
    for version in sorted(held["version"].unique()):
        own = versions == version
        for feature in CONTRACT.features:
            for name, chosen in _segments(columns[feature.name], is_category=feature.is_category):
                inside, outside = chosen & own, ~chosen & own
                if min(len(np.unique(customers[inside])), len(np.unique(customers[outside]))) >= FEWEST_LABELS:
                    yield _Segment(str(version), feature.name, name, inside, outside)


def _segments(values: pd.Series[Any], *, is_category: bool) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if is_category:
        for category in sorted(values.dropna().unique()):
            yield str(category), (values == category).to_numpy()
    else:
        numbers = pd.to_numeric(values)
        edges = np.unique(numbers.dropna().quantile(np.linspace(0, 1, NUMBER_SEGMENTS + 1)).to_numpy())
        for low, high in pairwise(edges):
            chosen = (numbers >= low) & ((numbers < high) | (high == edges[-1]))
            yield f"{number(low)} to {number(high)}", chosen.to_numpy()
    if values.isna().any():
        yield "missing", values.isna().to_numpy()
