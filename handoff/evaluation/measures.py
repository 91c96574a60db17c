"""Measures of predictions against the truth: pure functions of arrays.

truth is int64 [n] (the class) or float64 [n] (the value); answers are what the service answers: the positive class's
probability [n, 1], every class's [n, classes], or the value [n, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from handoff.evaluation.results import Bin, ClassCurves, ClassRow, Decile, Points, Residuals

Floats = NDArray[np.float64]
Truth = NDArray[Any]

# A higher value is better for these; a lower one for every other.
HIGHER_IS_BETTER = frozenset({"auc", "average_precision", "accuracy", "macro_auc", "r2"})
# A challenger is judged by these; the others are only shown.
DECISIVE: Mapping[str, tuple[str, ...]] = {
    "binary": ("auc", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae"),
}
INTERVAL_COLUMNS = 3  # lower end, value, upper end
SMALLEST_SEGMENT = 30
POINTS = 200
MEASURED: Mapping[str, tuple[str, ...]] = {
    "binary": ("auc", "average_precision", "log_loss", "brier", "accuracy"),
    "multiclass": ("accuracy", "macro_auc", "log_loss", "brier"),
    "regression": ("r2", "rmse", "mae", "coverage", "width"),
}
"""The names of `metrics`, by task; the last two of a regression only with an interval."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 10
EPSILON = 1e-7  # of float32: a probability of exactly 0 would have an infinite loss


def probabilities(task: str, answers: Floats) -> Floats:
    """Return [n, classes] for either kind of classifier."""
    return np.column_stack([1 - answers[:, 0], answers[:, 0]]) if task == "binary" else answers


def losses(task: str, truth: Truth, answers: Floats) -> dict[str, Floats]:
    """Return what each row adds to the metrics that are means over rows: name -> float64 [n]."""
    if task == "regression":
        error = truth - value_of(answers)
        return {"mae": np.abs(error), "mse": error**2}
    chances = probabilities(task, answers)
    own = np.clip(chances[np.arange(len(truth)), truth], EPSILON, 1.0)
    hits = np.eye(chances.shape[1])[truth]
    squares = ((chances - hits) ** 2).sum(axis=1)
    return {
        "log_loss": -np.log(own),
        "brier": squares / 2 if task == "binary" else squares,  # with two classes, both differ by the same amount
        "accuracy": (chances.argmax(axis=1) == truth).astype(np.float64),
    }


def value_of(answers: Floats) -> Floats:
    """Return the value [n] of a regression's answers: [n, 1], or [n, 3] with the ends of its interval around it."""
    return answers[:, answers.shape[1] // 2]


def metrics(task: str, truth: Truth, answers: Floats) -> dict[str, float]:
    """Return the metrics of a task. Raises ValueError when there are no rows, or only one class for a curve."""
    values = {name: float(part.mean()) for name, part in losses(task, truth, answers).items()}
    if task == "regression":
        variance = float(((truth - truth.mean()) ** 2).mean())
        mse = values.pop("mse")
        found_values = {"r2": 1 - mse / variance if variance else 0.0, "rmse": mse**0.5, **values}
        if answers.shape[1] == INTERVAL_COLUMNS:
            low, high = answers[:, 0], answers[:, 2]
            found_values["coverage"] = float(((low <= truth) & (truth <= high)).mean())
            found_values["width"] = float((high - low).mean())
        return found_values
    if task == "binary":
        return {
            "auc": auc(truth, answers[:, 0]),
            "average_precision": float(sk.average_precision_score(truth, answers[:, 0])),
            **{name: values[name] for name in ("log_loss", "brier", "accuracy")},
        }
    found = [place for place in range(answers.shape[1]) if 0 < (truth == place).sum() < len(truth)]
    areas = [auc(truth == place, answers[:, place]) for place in found]
    return {"accuracy": values["accuracy"], "macro_auc": float(np.mean(areas)), **values}


def auc(truth: Truth, scores: Floats, weights: Floats | None = None) -> float:
    """Return the area under the ROC curve. Raises ValueError with only one class."""
    return float(weighted_auc(truth, scores)(np.ones(len(truth)) if weights is None else weights))


def weighted_auc(truth: Truth, scores: Floats) -> Callable[[Floats], float]:
    """Return a function of row weights [n] -> AUC: the rows are sorted once, for thousands of bootstrap samples."""
    order = np.argsort(scores, kind="stable")
    positive = np.asarray(truth, dtype=bool)[order]
    ordered = np.asarray(scores)[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    if positive.all() or not positive.any():
        raise ValueError("an area under the curve needs rows of both classes")

    def area(weights: Floats) -> float:
        weights = weights[order]
        of_positive = np.add.reduceat(weights * positive, starts)
        of_negative = np.add.reduceat(weights * ~positive, starts)
        below = np.cumsum(of_negative) - of_negative
        pairs = of_positive.sum() * of_negative.sum()
        return float((of_positive * (below + of_negative / 2)).sum() / pairs) if pairs else float("nan")

    return area


def curves(label: str, hits: NDArray[np.bool_], scores: Floats) -> ClassCurves:
    """Return the curves of one class against the rest; hits: bool [n]."""
    false_rate, true_rate, _ = sk.roc_curve(hits, scores)
    precision, recall, _ = sk.precision_recall_curve(hits, scores)
    return ClassCurves(
        label=label,
        roc=_points(false_rate, true_rate),
        precision_recall=_points(recall[::-1], precision[::-1]),
        calibration=calibration(hits, scores),
        lift=lift(hits, scores),
    )


def calibration(hits: NDArray[np.bool_], scores: Floats) -> tuple[Bin, ...]:
    """Return bins of equally many rows, by rising score."""
    bins = []
    for rows in np.array_split(np.argsort(scores, kind="stable"), BINS):
        if len(rows):
            low, high = wilson(int(hits[rows].sum()), len(rows))
            bins.append(
                Bin(
                    predicted=float(scores[rows].mean()),
                    observed=float(hits[rows].mean()),
                    low=low,
                    high=high,
                    rows=len(rows),
                )
            )
    return tuple(bins)


def lift(hits: NDArray[np.bool_], scores: Floats) -> tuple[Decile, ...]:
    """Return tenths of the rows by falling score."""
    overall, total, found = float(hits.mean()), int(hits.sum()), 0
    deciles = []
    for rows in np.array_split(np.argsort(-scores, kind="stable"), BINS):
        if len(rows):
            found += int(hits[rows].sum())
            rate = float(hits[rows].mean())
            deciles.append(
                Decile(rows=len(rows), rate=rate, lift=rate / overall if overall else 0.0, gain=found / max(total, 1))
            )
    return tuple(deciles)


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share."""
    z = 1.959964
    share = hits / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * np.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def class_table(labels: tuple[str, ...], truth: Truth, answers: Floats) -> tuple[ClassRow, ...]:
    """Return a row per class; a class is predicted where its probability is the greatest."""
    predicted = answers.argmax(axis=1)
    rows = []
    for place, label in enumerate(labels):
        hits, said = truth == place, predicted == place
        right = int((hits & said).sum())
        precision = right / said.sum() if said.any() else 0.0
        recall = right / hits.sum() if hits.any() else 0.0
        both = precision + recall
        rows.append(
            ClassRow(
                label=label,
                rows=int(hits.sum()),
                precision=float(precision),
                recall=float(recall),
                f1=float(2 * precision * recall / both) if both else 0.0,
                auc=auc(hits, answers[:, place]) if 0 < hits.sum() < len(hits) else None,
            )
        )
    return tuple(rows)


def residuals(truth: Truth, answers: Floats) -> Residuals:
    """Return how a regression is wrong."""
    predicted = value_of(answers)
    error = truth - predicted
    counts, edges = np.histogram(error, bins=30)
    groups = [rows for rows in np.array_split(np.argsort(predicted, kind="stable"), BINS) if len(rows)]
    return Residuals(
        quantiles={f"{share:.0%}": float(np.quantile(error, share)) for share in QUANTILES},
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
        predicted=tuple(float(predicted[rows].mean()) for rows in groups),
        observed=tuple(float(truth[rows].mean()) for rows in groups),
    )


def _points(x: Floats, y: Floats) -> Points:
    """Return a curve with at most POINTS points; the ends stay."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).astype(int))
    return Points(x=tuple(np.round(x[kept], 5).tolist()), y=tuple(np.round(y[kept], 5).tolist()))
