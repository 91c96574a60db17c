"""How far inputs and scores have moved from the training profile: effect sizes, which do not grow with the rows.

The profile holds counts in bins, so that a bundle carries no customer's row. Of each input: the population stability
index (PSI; Siddiqi 2006: below 0.1 nothing, from 0.25 on a shift; in few rows chance alone makes one), and what moved
most: for a number the difference of the means in standard deviations of the training rows, for a category the greatest
change of a share. Missing is a bin of its own.

Evidently was looked at first (0.7.23): it compares two tables of rows, and a bundle should hold none; it brings 27
packages (a web server and telemetry among them) into the pipeline that holds the registry's credentials, and plotly 5
in place of 7. What is needed of it is the forty lines below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from custom_runtime.schema import Feature, Task
from handoff.evaluation.report import number

ROLE = "profile"  # in the bundle
SCORE_BINS = 20
NUMBER_BINS = 10
# PSI from which an input is worth a look, and from which it has moved (Siddiqi 2006).
WATCH_PSI, MOVED_PSI = 0.1, 0.25
# How often a PSI of rows that have not moved is taken for drift: a check looks at many inputs, every day.
CHANCE = 0.001
_SAMPLES = 2_000
# A share of zero on one side would be an infinite PSI.
_LEAST_SHARE = 1e-4

Values = NDArray[Any]
Verdict = Literal["steady", "within chance", "watch", "moved"]


class InputProfile(BaseModel):
    """The training rows of one input.

    edges: the inner edges of a number's bins. counts: of the bins or categories, then of missing values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    categories: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...]
    mean: float | None = None
    deviation: float | None = None


class TrainingProfile(BaseModel):
    """What the bundle's file `profile` holds: every input, and the answers, of the rows that the model was checked on.

    score: of two classes the probability of the positive one, in equal bins from 0 to 1; of a regression the value, in
    bins of equal share. Of several classes it is None: classes counts the most probable class (its categories are the
    contract's classes, in their order), and probabilities has each class's probability, under the class's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: str
    rows: int
    inputs: tuple[InputProfile, ...]
    score: InputProfile | None
    classes: InputProfile | None = None
    probabilities: tuple[InputProfile, ...] = ()


class Drift(BaseModel):
    """How one input, or the score, has moved. effect: in standard deviations, or the change of the share in `moved`.

    verdict: "within chance" is a PSI that so few rows show though nothing has moved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    psi: float
    effect: float
    moved: str
    missing: float
    verdict: Verdict


def build_profile(
    contract: str, features: Sequence[Feature], rows: NDArray[np.float32], answers: Values, *, task: Task
) -> TrainingProfile:
    """Return the profile of packed rows [n, WIDTH] and the answers for them.

    answers: of two classes the positive one's probability, [n] or [n, 1]; of several [n, classes]; of a regression [n],
    [n, 1], or with an interval [n, 3] (lower end, value, upper end).
    """
    inputs = []
    for feature, column in zip(features, rows.T, strict=True):
        if feature.is_category:
            inputs.append(_counted(feature.name, feature.categories, column.astype(np.int64)))
        else:
            present = column[~np.isnan(column)].astype(np.float64)
            inputs.append(_number(feature.name, present, len(column) - len(present)))
    profile = TrainingProfile(contract=contract, rows=len(rows), inputs=tuple(inputs), score=None)
    columns = np.asarray(answers, dtype=np.float64).reshape(len(rows), -1)
    if task.kind == "regression":
        value = columns[:, columns.shape[1] // 2]
        return profile.model_copy(update={"score": _number("score", value, 0)})
    if task.kind == "binary":
        return profile.model_copy(update={"score": _probability("score", columns[:, 0])})
    return profile.model_copy(
        update={
            "classes": _counted("class", task.classes, columns.argmax(axis=1)),
            "probabilities": tuple(
                _probability(name, column) for name, column in zip(task.classes, columns.T, strict=True)
            ),
        }
    )


def drift_of(profile: InputProfile, values: Values) -> Drift:
    """Return how values [n] have moved: numbers (NaN: missing), or category names (None: missing)."""
    if profile.categories:
        places = {category: place for place, category in enumerate(profile.categories)}
        codes = [places.get(value, len(places)) for value in values]
        counts = np.bincount(codes, minlength=len(places) + 1)
    else:
        numbers = np.asarray(values, dtype=np.float64)
        present = numbers[~np.isnan(numbers)]
        inner = np.bincount(np.searchsorted(profile.edges, present, side="right"), minlength=len(profile.edges) + 1)
        counts = np.append(inner, len(numbers) - len(present))
    expected = np.array(profile.counts)
    psi = float(_psi(expected, counts))
    rows = int(counts.sum())
    missing = float(counts[-1] / max(rows, 1))
    before = expected / max(expected.sum(), 1)
    if profile.categories:
        names = [*profile.categories, "missing"]
        after = counts / max(rows, 1)
        place = int(np.abs(after - before).argmax())
        effect = float(after[place] - before[place])
        moved = f"share of {names[place]} {before[place]:.1%} to {after[place]:.1%}"
    elif _is_mostly_missing(expected, counts):
        effect, moved = missing - float(before[-1]), f"missing {before[-1]:.1%} to {missing:.1%}"
    else:
        mean = float(present.mean()) if len(present) else 0.0
        effect = (mean - (profile.mean or 0.0)) / (profile.deviation or 1.0) if len(present) else 0.0
        moved = f"mean {number(profile.mean or 0.0)} to {number(mean)}"
    return Drift(
        name=profile.name,
        rows=rows,
        psi=psi,
        effect=effect,
        moved=moved,
        missing=missing,
        verdict=_verdict(psi, expected, counts),
    )


def _chance(before: Values, after: Values) -> float:
    """Return the PSI that one in a thousand samples of these sizes exceeds though nothing has moved.

    Drawn, and not from the chi-square approximation: bins that few rows leave empty add more than that knows.
    """
    random = np.random.default_rng(0)
    total = before + after
    shares = total / max(total.sum(), 1)
    drawn = [random.multinomial(int(counts.sum()), shares, size=_SAMPLES) for counts in (before, after)]
    return float(np.quantile(_psi(*drawn), 1 - CHANCE))


def _psi(before: Values, after: Values) -> NDArray[np.float64]:
    """Return the population stability index of counts [..., bins]."""
    psi: NDArray[np.float64] = _psi_parts(before, after).sum(axis=-1)
    return psi


def _psi_parts(before: Values, after: Values) -> NDArray[np.float64]:
    """Return what each bin adds to the index, [..., bins]."""
    shares_before, shares_after = _shares(before), _shares(after)
    return np.asarray((shares_after - shares_before) * np.log(shares_after / shares_before))


def _is_mostly_missing(before: Values, after: Values) -> bool:
    """Whether more of the index comes from the share of missing values than from all bins of numbers together."""
    parts = _psi_parts(before, after)
    return bool(parts[-1] > parts[:-1].sum())


def _verdict(psi: float, before: Values, after: Values) -> Verdict:
    if psi < WATCH_PSI:
        return "steady"
    if psi < _chance(before, after):
        return "within chance"
    return "moved" if psi >= MOVED_PSI else "watch"


def _counted(name: str, categories: tuple[str, ...], codes: Values) -> InputProfile:
    counts = np.bincount(codes, minlength=len(categories) + 1)  # a missing category has the code after the last one
    return InputProfile(name=name, categories=categories, counts=tuple(map(int, counts)))


def _probability(name: str, values: Values) -> InputProfile:
    return _binned(name, np.linspace(0, 1, SCORE_BINS + 1)[1:-1], values, 0)


def _number(name: str, present: Values, missing: int) -> InputProfile:
    shares = np.linspace(0, 1, NUMBER_BINS + 1)[1:-1]
    edges = np.unique(np.quantile(present, shares)) if len(present) else np.array([])
    return _binned(name, edges, present, missing)


def _binned(name: str, edges: Values, present: Values, missing: int) -> InputProfile:
    counts = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
    return InputProfile(
        name=name,
        edges=tuple(float(edge) for edge in edges),
        counts=(*map(int, counts), missing),
        mean=float(np.mean(present)) if len(present) else None,
        deviation=float(np.std(present)) if len(present) else None,
    )


def _shares(counts: Values) -> NDArray[np.float64]:
    totals = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    shares = np.maximum(np.asarray(counts, dtype=np.float64) / totals, _LEAST_SHARE)
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
