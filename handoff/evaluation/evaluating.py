"""Evaluates answers on labelled, encoded rows: measures, segments, importance, profile, the champion beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from custom_runtime.schema import Feature
from handoff.conversion.convert import Target
from handoff.errors import DataError
from handoff.evaluation.comparing import compare_answers
from handoff.evaluation.measures import (
    DECISIVE,
    SMALLEST_SEGMENT,
    Floats,
    Truth,
    class_table,
    curves,
    losses,
    metrics,
    probabilities,
    residuals,
)
from handoff.evaluation.results import Comparison, Evaluation, Importance, Profile, Segment

Rows = NDArray[np.float32]
Score = Callable[[Rows], Floats]

# More rows would not improve the page: it shows two or three digits.
MOST_ROWS = 50_000
SHUFFLES = 3
HISTOGRAM_BINS = 20
FEWEST_ROWS = 20


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that is served today. answers: on the same rows, float64 [n, outputs]."""

    uri: str
    answers: Floats
    note: str = ""


def evaluate(
    target: Target,
    features: Sequence[Feature],
    rows: Rows,
    truth: Truth,
    answers: Floats,
    *,
    model: str,
    source: str,
    note: str = "",
    score: Score | None = None,
    champion: Champion | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate answers [n, outputs] on rows [n, WIDTH] with their truth [n].

    score: answers of the model on other rows, for the permutation importance; None leaves it out.
    Raises DataError when the rows are too few, or of one class only.
    """
    if len(truth) < FEWEST_ROWS:
        raise DataError(f"{source} has {len(truth)} labelled rows to evaluate on; at least {FEWEST_ROWS} are needed")
    if len(truth) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(truth), MOST_ROWS, replace=False))
        rows, truth, answers = rows[chosen], truth[chosen], answers[chosen]
        if champion is not None:
            champion = Champion(champion.uri, champion.answers[chosen], champion.note)
        note = f"{note} {MOST_ROWS:,} of the rows, drawn at random.".strip()
    task = target.kind
    try:
        found = metrics(task, truth, answers)
    except ValueError as error:
        raise DataError(f"{source} cannot be evaluated on: {error}") from error
    is_regression = task == "regression"
    chances = None if is_regression else probabilities(task, answers)
    shown = [] if chances is None else [1] if task == "binary" else list(range(chances.shape[1]))
    comparison: Comparison | None = None
    if champion is not None:
        comparison = compare_answers(
            task, truth, answers, champion.answers, champion=champion.uri, note=champion.note, seed=seed
        )
    return Evaluation(
        model=model,
        task=task,
        rows=len(truth),
        source=source,
        note=note,
        metrics=found,
        classes=target.classes,
        curves=()
        if chances is None
        else tuple(
            curves(target.classes[place], truth == place, chances[:, place])
            for place in shown
            if 0 < (truth == place).sum() < len(truth)
        ),
        class_table=() if chances is None else class_table(target.classes, truth, chances),
        confusion=() if chances is None else _confusion(truth, chances),
        residuals=residuals(truth, answers) if is_regression else None,
        segments=_segments(task, features, rows, truth, answers, champion),
        importance=() if score is None else _importance(task, features, rows, truth, score, seed),
        profile=tuple(_profile(feature, column) for feature, column in zip(features, rows.T, strict=True)),
        comparison=comparison,
    )


def _segments(
    task: str,
    features: Sequence[Feature],
    rows: Rows,
    truth: Truth,
    answers: Floats,
    champion: Champion | None,
) -> tuple[Segment, ...]:
    segments = []
    for place, feature in enumerate(features):
        for code, category in enumerate(feature.codes):
            chosen = rows[:, place] == code
            if not chosen.any():
                continue
            segments.append(
                Segment(
                    feature=feature.name,
                    category="(missing)" if category is None else category,
                    rows=int(chosen.sum()),
                    metrics=_of_segment(task, truth[chosen], answers[chosen]),
                    champion=None if champion is None else _of_segment(task, truth[chosen], champion.answers[chosen]),
                )
            )
    return tuple(segments)


def _of_segment(task: str, truth: Truth, answers: Floats) -> dict[str, float | None]:
    names = ["r2", *DECISIVE[task]] if task == "regression" else [*DECISIVE[task], "brier"]
    if len(truth) < SMALLEST_SEGMENT:
        return dict.fromkeys(names)
    try:
        found: dict[str, float | None] = dict(metrics(task, truth, answers))
    except ValueError:  # one class only: metrics that are means over rows are still defined
        found = {name: float(part.mean()) for name, part in losses(task, truth, answers).items()}
    return {name: found.get(name) for name in names}


def _importance(
    task: str, features: Sequence[Feature], rows: Rows, truth: Truth, score: Score, seed: int
) -> tuple[Importance, ...]:
    """Shuffle one feature after the other and measure how much the loss grows (Breiman 2001)."""
    name = "mae" if task == "regression" else "log_loss"
    random = np.random.default_rng(seed)
    if len(rows) > MOST_ROWS // 5:
        chosen = random.choice(len(rows), MOST_ROWS // 5, replace=False)
        rows, truth = rows[chosen], truth[chosen]
    base = float(losses(task, truth, score(rows))[name].mean())
    found = []
    for place, feature in enumerate(features):
        increases = []
        for _ in range(SHUFFLES):
            shuffled = rows.copy()
            shuffled[:, place] = random.permutation(shuffled[:, place])
            increases.append(float(losses(task, truth, score(shuffled))[name].mean()) - base)
        found.append(
            Importance(feature=feature.name, increase=float(np.mean(increases)), deviation=float(np.std(increases)))
        )
    return tuple(sorted(found, key=lambda importance: -importance.increase))


def _profile(feature: Feature, column: NDArray[np.float32]) -> Profile:
    if feature.is_category:
        counts = np.bincount(column.astype(np.int64), minlength=len(feature.codes))
        known = len(feature.categories)
        return Profile(
            feature=feature.name,
            unit="",
            numbers={"missing": int(counts[known:].sum())},
            labels=feature.categories,
            counts=tuple(int(count) for count in counts[:known]),
        )
    missing = int(np.isnan(column).sum())
    present = column[~np.isnan(column)].astype(np.float64)
    if not len(present):
        return Profile(feature=feature.name, unit=feature.unit, numbers={"missing": missing}, labels=(), counts=())
    counts, edges = np.histogram(present, bins=HISTOGRAM_BINS)
    shares = {"minimum": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "maximum": 1.0}
    return Profile(
        feature=feature.name,
        unit=feature.unit,
        numbers={
            "mean": float(present.mean()),
            "deviation": float(present.std()),
            **{name: float(np.quantile(present, share)) for name, share in shares.items()},
            "missing": missing,
        },
        labels=tuple(f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)),
        counts=tuple(int(count) for count in counts),
    )


def _confusion(truth: Truth, chances: Floats) -> tuple[tuple[int, ...], ...]:
    """Return counts [truth][predicted]."""
    size = chances.shape[1]
    counts = np.bincount(truth * size + chances.argmax(axis=1), minlength=size * size).reshape(size, size)
    return tuple(tuple(int(count) for count in row) for row in counts)
