"""Joined records -> the results of a quality check: metrics with intervals, over time, drift, challengers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from handoff.errors import DataError
from handoff.evaluation.comparing import compare_answers
from handoff.evaluation.measures import curves, residuals, value_of
from handoff.quality.drift import Drift, TrainingProfile, drift_of
from handoff.quality.joining import Joined
from handoff.quality.results import Challenge, Freshness, Measure, Period, Quality, VersionQuality
from handoff.quality.scoring import METRICS, REPLICATES, Floats, class_qualities, measures
from handoff.quality.segments import FEWEST_LABELS, failing_segments


def measure_quality(
    records: pd.DataFrame,
    joined: Joined,
    *,
    profile: TrainingProfile | None,
    made: datetime,
    period: str = "7D",
    seed: int = 0,
) -> Quality:
    """Measure records with their labels. period: a pandas offset, the width of the periods. Raises DataError."""
    labelled = joined.records
    if len(labelled) < FEWEST_LABELS:
        raise DataError(
            f"{len(labelled)} of {joined.labels} labels belong to a prediction; at least {FEWEST_LABELS} are needed"
        )
    versions = [
        _version(version, predicted, labelled[labelled["version"] == version], period, seed)
        for version, predicted in _by_version(records)
    ]
    drift, drift_note = _drift(records, profile)
    failing, failing_note = failing_segments(labelled, answers_of(labelled), _keys(labelled))
    return Quality(
        model=str(records["model"].iloc[0]) if records["model"].nunique() == 1 else CONTRACT.name,
        task=CONTRACT.task.kind,
        contract=CONTRACT.fingerprint,
        made=made,
        joined_by=joined.by,
        labels=joined.labels,
        unmatched=joined.unmatched,
        superseded=joined.superseded,
        notes=joined.notes,
        predictions=len(records),
        versions=tuple(versions),
        challenges=tuple(_challenges(labelled, seed)),
        drift=drift,
        drift_note=drift_note,
        freshness=tuple(_freshness(records)),
        failing=failing,
        failing_note=failing_note,
    )


def _by_version(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each version, 7 before 10."""
    groups = [(str(version), part) for version, part in rows.groupby("version")]
    return sorted(groups, key=lambda group: _place_of(group[0]))


def _place_of(version: str) -> list[tuple[int, str]]:
    """Return what versions are sorted by: numbers in them as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", version)]


def answers_of(rows: pd.DataFrame) -> Floats:
    """Return what was answered, [n, columns]: as in evaluation/measures.py, with the interval of a regression."""
    if CONTRACT.columns > 1:
        return np.array(rows["scores"].tolist(), dtype=np.float64).reshape(-1, CONTRACT.columns)
    return rows["score"].to_numpy(dtype=np.float64)[:, None]


def truth_of(rows: pd.DataFrame) -> NDArray[Any]:
    """Return the labels: the place of the class, or the value."""
    return rows["truth"].to_numpy(dtype=np.float64 if CONTRACT.task.kind == "regression" else np.int64)


def _version(version: str, predicted: pd.DataFrame, rows: pd.DataFrame, period: str, seed: int) -> VersionQuality:
    """Measure one version. predicted: its records; rows: those with a label, of which few measure nothing."""
    if len(rows) < FEWEST_LABELS:
        return VersionQuality(
            version=version, predictions=len(predicted), overall=_period(version, rows, of=predicted), periods=()
        )
    task, truth, answers = CONTRACT.task, truth_of(rows), answers_of(rows)
    periods = [
        _period(version, part, seed)
        for _, part in rows.groupby(pd.Grouper(key="time", freq=period))
        if len(part) >= FEWEST_LABELS
    ]
    columns = {"binary": [1], "multiclass": list(range(len(task.classes)))}.get(task.kind, [])
    chances = [answers[:, 0] if task.kind == "binary" else answers[:, place] for place in columns]
    return VersionQuality(
        version=version,
        predictions=len(predicted),
        overall=_period(version, rows, seed),
        periods=tuple(periods),
        curves=tuple(
            curves(task.classes[place], truth == place, chance)
            for place, chance in zip(columns, chances, strict=True)
            if 0 < (truth == place).sum() < len(truth)
        ),
        classes=class_qualities(task.classes, truth, answers, _keys(rows), fewest=FEWEST_LABELS, seed=seed)
        if task.kind == "multiclass"
        else (),
        residuals=residuals(truth, answers) if task.kind == "regression" else None,
    )


def _period(version: str, rows: pd.DataFrame, seed: int = 0, *, of: pd.DataFrame | None = None) -> Period:
    """Measure labelled rows. of: the records that are shown instead where the rows are too few to measure anything."""
    task, shown = CONTRACT.task.kind, rows if of is None else of
    unmeasured = {name: Measure(value=None, low=None, high=None) for name in METRICS[task]}
    return Period(
        version=version,
        begin=shown["time"].min(),
        end=shown["time"].max(),
        labels=len(rows),
        positives=int(truth_of(rows).sum()) if task == "binary" else None,
        measures=measures(task, truth_of(rows), answers_of(rows), _keys(rows), seed=seed) if of is None else unmeasured,
    )


def _keys(rows: pd.DataFrame) -> Any:
    """Return what identifies a customer; each row is its own where the records name none.

    Of a contract without a key, records before this version hold the row's number in the request, which names nobody.
    """
    if CONTRACT.key is None:
        return np.arange(len(rows))
    keys = rows["customer"]
    return keys.where(keys.notna(), "row " + pd.Series(np.arange(len(rows)), index=rows.index).astype(str))


def _challenges(labelled: pd.DataFrame, seed: int) -> Iterator[Challenge]:
    """Compare every two models that scored the same rows: the one that answered, and its challengers."""
    column = "scores" if CONTRACT.columns > 1 else "score"
    for champion, rows in _by_version(labelled.dropna(subset=["challengers"])):
        scored = pd.DataFrame(
            [
                {str(entry["version"]): entry[column] for entry in challengers if entry[column] is not None}
                for challengers in rows["challengers"]
            ],
            index=rows.index,
        )
        # A bundle that became the champion has scored its own rows twice.
        others: list[str] = sorted({str(name) for name in scored.columns} - {champion}, key=_place_of)
        scored = scored[others]
        scored.insert(0, champion, rows[column])
        for one, other in combinations(scored.columns, 2):
            both = scored[[one, other]].notna().all(axis=1)
            kept = rows[both]
            truth = truth_of(kept)
            if len(kept) < FEWEST_LABELS or (CONTRACT.task.kind != "regression" and len(np.unique(truth)) < 2):
                continue
            theirs, own = (answers_of(scored.loc[both, [name]].set_axis([column], axis=1)) for name in (other, one))
            compared = compare_answers(
                CONTRACT.task.kind,
                truth,
                theirs,
                own,
                champion=f"version {one}",
                replicates=REPLICATES,
                seed=seed,
                keys=_keys(kept),
            )
            yield Challenge(champion=one, challenger=other, comparison=compared)


def _drift(records: pd.DataFrame, profile: TrainingProfile | None) -> tuple[dict[str, tuple[Drift, ...]], str]:
    if profile is None:
        return {}, "The bundle has no training profile: import the model again, and name it with --bundle."
    if profile.contract != CONTRACT.fingerprint:
        raise DataError(f"the profile is of contract {profile.contract}; this is {CONTRACT.fingerprint}")
    found: dict[str, tuple[Drift, ...]] = {}
    for version, rows in _by_version(records):
        answers = answers_of(rows)
        profiles = (
            [profile.score]
            if profile.score
            else [one.model_copy(update={"name": f"probability of {one.name}"}) for one in profile.probabilities]
        )
        columns_of = value_of(answers)[:, None] if CONTRACT.task.kind == "regression" else answers
        drifts = [drift_of(given, values) for given, values in zip(profiles, columns_of.T, strict=False)]
        if profile.classes is not None:
            names = np.array(profile.classes.categories, dtype=object)
            drifts.append(drift_of(profile.classes, names[answers.argmax(axis=1)]))
        held = rows["features"].dropna()
        if len(held):
            columns = pd.DataFrame(held.tolist())
            for given in profile.inputs:
                values = columns[given.name]
                drifts.append(
                    drift_of(given, values.to_numpy() if given.categories else pd.to_numeric(values).to_numpy())
                )
        found[version] = tuple(sorted(drifts, key=lambda drift: -drift.psi))
    has_features = records["features"].notna().any()
    return found, "" if has_features else "The records hold no features (SERVING_RECORD_FEATURES=1): only the score."


def _freshness(records: pd.DataFrame) -> Iterator[Freshness]:
    for version, rows in _by_version(records):
        ages = (rows["time"] - rows["features_time"]).dropna().dt.total_seconds()
        yield Freshness(
            version=version,
            rows=len(rows),
            median_s=float(ages.median()) if len(ages) else None,
            p95_s=float(ages.quantile(0.95)) if len(ages) else None,
            sources={str(name): float(share) for name, share in rows["source"].value_counts(normalize=True).items()},
        )
