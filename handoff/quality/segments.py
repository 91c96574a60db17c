"""Segments where a model fails: rows of one category, or of a quarter of a number, whose loss is greater."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from handoff.evaluation.measures import losses
from handoff.evaluation.report import number
from handoff.quality.results import Failing
from handoff.quality.scoring import ROW_LOSS, Floats

FEWEST_LABELS = 30
NUMBER_SEGMENTS = 4
NO_FEATURES = "The records hold no features (SERVING_RECORD_FEATURES=1), so no segments are compared."
# Of all segments looked at together, one in twenty may be reported without a reason (Bonferroni).
_FAMILY_ERROR = 0.05


def failing_segments(labelled: pd.DataFrame, answers: Floats) -> tuple[tuple[Failing, ...], str]:
    """Return the segments whose mean loss is greater than that of the other rows, by Welch's interval, and a note.

    labelled: records with `truth`, numbered from 0; answers: [n, columns], theirs.
    """
    held = labelled.dropna(subset=["features"])
    if held.empty:
        return (), NO_FEATURES
    task = CONTRACT.task.kind
    columns = pd.DataFrame(held["features"].tolist(), index=held.index)
    truth = held["truth"].to_numpy(dtype=np.float64)
    cost = losses(task, truth if task == "regression" else truth.astype(np.int64), answers[held.index])[ROW_LOSS[task]]
    versions = held["version"].to_numpy()
    candidates = [
        (str(version), feature.name, name, chosen)
        for version in sorted(held["version"].unique())
        for feature in CONTRACT.features
        for name, chosen in _segments(columns[feature.name], is_category=feature.is_category)
        if min((chosen & (versions == version)).sum(), (~chosen & (versions == version)).sum()) >= FEWEST_LABELS
    ]
    found = []
    for version, feature_name, name, chosen in candidates:
        own = versions == version
        inside, outside = cost[chosen & own], cost[~chosen & own]
        excess, low = _excess(inside, outside, error=_FAMILY_ERROR / len(candidates))
        if low > 0:
            found.append(
                Failing(
                    version=version,
                    feature=feature_name,
                    segment=name,
                    labels=len(inside),
                    loss=float(inside.mean()),
                    excess=excess,
                    low=low,
                )
            )
    note = f"{len(candidates)} segments were compared; the limits hold for all of them together (Bonferroni)."
    return tuple(sorted(found, key=lambda failing: -failing.excess)), note


def _excess(inside: Floats, outside: Floats, *, error: float) -> tuple[float, float]:
    """Return the difference of two means, and the lower end of its interval (Welch 1947)."""
    from scipy import stats

    excess = float(inside.mean() - outside.mean())
    variances = inside.var(ddof=1) / len(inside), outside.var(ddof=1) / len(outside)
    freedom = sum(variances) ** 2 / max(
        variances[0] ** 2 / (len(inside) - 1) + variances[1] ** 2 / (len(outside) - 1), 1e-300
    )
    return excess, excess - float(stats.t.ppf(1 - error, max(freedom, 1.0))) * float(np.sqrt(sum(variances)))


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
