"""Joined records -> the results of a quality check: metrics with intervals, over time, drift, freshness, segments.

Intervals are percentiles of a bootstrap over keys, not over rows: several predictions for one customer are no
independent evidence (a cluster bootstrap; Davison and Hinkley 1997, 3.8). Only contracts of two classes are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from handoff.errors import DataError
from handoff.evaluation.comparing import compare_answers
from handoff.evaluation.measures import curves, losses, weighted_auc
from handoff.quality.drift import Drift, TrainingProfile, drift_of
from handoff.quality.joining import Joined
from handoff.quality.results import Challenge, Failing, Freshness, Measure, Period, Quality, VersionQuality

REPLICATES = 400
FEWEST_LABELS = 30
TOP_SHARE = 0.1
NUMBER_SEGMENTS = 4
# Of all segments looked at together, one in twenty may be reported without a reason (Bonferroni).
_FAMILY_ERROR = 0.05
METRICS = ("auc", "log_loss", "brier", "calibration", "lift")

Floats = NDArray[np.float64]


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
    if CONTRACT.task.kind != "binary":
        raise DataError(f"the contract's task is {CONTRACT.task.kind}; quality is measured of two classes")
    labelled = joined.records
    if len(labelled) < FEWEST_LABELS:
        raise DataError(
            f"{len(labelled)} of {joined.labels} labels belong to a prediction; at least {FEWEST_LABELS} are needed"
        )
    versions = [
        _version(str(version), int((records["version"] == version).sum()), rows, period, seed)
        for version, rows in labelled.groupby("version", sort=True)
    ]
    drift, drift_note = _drift(records, profile)
    failing, failing_note = _failing(labelled)
    return Quality(
        model=str(records["model"].iloc[0]),
        contract=CONTRACT.fingerprint,
        made=made,
        joined_by=joined.by,
        labels=joined.labels,
        unmatched=joined.unmatched,
        superseded=joined.superseded,
        predictions=len(records),
        versions=tuple(versions),
        challenges=tuple(_challenges(labelled, seed)),
        drift=drift,
        drift_note=drift_note,
        freshness=tuple(_freshness(records)),
        failing=failing,
        failing_note=failing_note,
    )


def measures(truth: NDArray[Any], scores: Floats, keys: Any, *, seed: int = 0) -> dict[str, Measure]:
    """Return every metric with its interval; keys [n]: rows of one key are drawn together.

    calibration: the observed rate minus the mean prediction. lift: the rate in the tenth with the highest scores, over
    the overall rate.
    """
    parts = losses("binary", truth, scores[:, None])
    positive = truth.astype(np.float64)
    top = np.zeros(len(truth))
    top[np.argsort(-scores, kind="stable")[: max(1, round(TOP_SHARE * len(truth)))]] = 1.0
    both = bool(positive.any() and not positive.all())

    def lift(weights: Floats) -> float:
        rate = float(weights @ positive / weights.sum())
        chosen = weights * top
        return float(chosen @ positive / chosen.sum() / rate) if rate and chosen.sum() else float("nan")

    metrics: dict[str, Callable[[Floats], float]] = {
        "log_loss": lambda weights: float(weights @ parts["log_loss"] / weights.sum()),
        "brier": lambda weights: float(weights @ parts["brier"] / weights.sum()),
        "calibration": lambda weights: float(weights @ (positive - scores) / weights.sum()),
    }
    if both:
        metrics = {"auc": weighted_auc(truth, scores), **metrics, "lift": lift}
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
    for name in METRICS:
        if name not in metrics:
            found[name] = Measure(value=None, low=None, high=None)
            continue
        low, high = np.nanquantile(samples[name], [0.025, 0.975])
        found[name] = Measure(value=metrics[name](np.ones(len(truth))), low=float(low), high=float(high))
    return found


def _version(version: str, predictions: int, rows: pd.DataFrame, period: str, seed: int) -> VersionQuality:
    truth, scores = rows["truth"].to_numpy(dtype=np.int64), rows["score"].to_numpy(dtype=np.float64)
    both = bool(truth.any() and not truth.all())
    periods = [
        _period(version, part, seed)
        for _, part in rows.groupby(pd.Grouper(key="time", freq=period))
        if len(part) >= FEWEST_LABELS
    ]
    return VersionQuality(
        version=version,
        predictions=predictions,
        overall=_period(version, rows, seed),
        periods=tuple(periods),
        curves=curves(CONTRACT.task.classes[1], truth == 1, scores) if both else None,
    )


def _period(version: str, rows: pd.DataFrame, seed: int) -> Period:
    truth, scores = rows["truth"].to_numpy(dtype=np.int64), rows["score"].to_numpy(dtype=np.float64)
    return Period(
        version=version,
        begin=rows["time"].min(),
        end=rows["time"].max(),
        labels=len(rows),
        positives=int(truth.sum()),
        measures=measures(truth, scores, _keys(rows), seed=seed),
    )


def _keys(rows: pd.DataFrame) -> Any:
    """Return what identifies a customer; each row is its own where the records name none."""
    keys = rows["key"].fillna(rows["key_hash"])
    return keys.where(keys.notna(), "row " + pd.Series(np.arange(len(rows)), index=rows.index).astype(str))


def _challenges(labelled: pd.DataFrame, seed: int) -> Iterator[Challenge]:
    """Compare each challenger with the champion beside which it scored the same rows."""
    held = labelled[["version", "truth", "score", "challengers"]].dropna(subset=["challengers"])
    exploded = held.explode("challengers").dropna(subset=["challengers"])
    if exploded.empty:
        return
    exploded = exploded.assign(
        challenger=[str(entry["version"]) for entry in exploded["challengers"]],
        theirs=[entry["score"] for entry in exploded["challengers"]],
    ).dropna(subset=["theirs"])
    for (champion, challenger), rows in exploded.groupby(["version", "challenger"], sort=True):
        truth = rows["truth"].to_numpy(dtype=np.int64)
        if len(rows) < FEWEST_LABELS or not truth.any() or truth.all():
            continue
        compared = compare_answers(
            "binary",
            truth,
            rows["theirs"].to_numpy(dtype=np.float64)[:, None],
            rows["score"].to_numpy(dtype=np.float64)[:, None],
            champion=f"version {champion}",
            replicates=REPLICATES,
            seed=seed,
        )
        yield Challenge(champion=str(champion), challenger=str(challenger), comparison=compared)


def _drift(records: pd.DataFrame, profile: TrainingProfile | None) -> tuple[dict[str, tuple[Drift, ...]], str]:
    if profile is None:
        return {}, "The bundle has no training profile: import the model again, and name it with --bundle."
    if profile.contract != CONTRACT.fingerprint:
        raise DataError(f"the profile is of contract {profile.contract}; this is {CONTRACT.fingerprint}")
    found: dict[str, tuple[Drift, ...]] = {}
    for version, rows in records.groupby("version", sort=True):
        drifts = []
        if profile.score is not None:
            drifts.append(drift_of(profile.score, rows["score"].dropna().to_numpy()))
        held = rows["features"].dropna()
        if len(held):
            columns = pd.DataFrame(held.tolist())
            for given in profile.inputs:
                values = columns[given.name]
                drifts.append(
                    drift_of(given, values.to_numpy() if given.categories else pd.to_numeric(values).to_numpy())
                )
        found[str(version)] = tuple(sorted(drifts, key=lambda drift: -drift.psi))
    has_features = records["features"].notna().any()
    return found, "" if has_features else "The records hold no features (SERVING_RECORD_FEATURES=1): only the score."


def _freshness(records: pd.DataFrame) -> Iterator[Freshness]:
    for version, rows in records.groupby("version", sort=True):
        ages = (rows["time"] - rows["features_time"]).dropna().dt.total_seconds()
        yield Freshness(
            version=str(version),
            rows=len(rows),
            median_s=float(ages.median()) if len(ages) else None,
            p95_s=float(ages.quantile(0.95)) if len(ages) else None,
            sources={str(name): float(share) for name, share in rows["source"].value_counts(normalize=True).items()},
        )


def _failing(labelled: pd.DataFrame) -> tuple[tuple[Failing, ...], str]:
    """Find segments whose mean log loss is greater than that of the other rows, by Welch's interval."""
    held = labelled.dropna(subset=["features"])
    if held.empty:
        return (), "The records hold no features (SERVING_RECORD_FEATURES=1): segments cannot be told apart."
    from scipy import stats

    columns = pd.DataFrame(held["features"].tolist(), index=held.index)
    losses_of = losses(
        "binary", held["truth"].to_numpy(dtype=np.int64), held["score"].to_numpy(dtype=np.float64)[:, None]
    )["log_loss"]
    candidates: list[tuple[str, str, str, NDArray[np.bool_]]] = []
    for version in sorted(held["version"].unique()):
        own = (held["version"] == version).to_numpy()
        for feature in CONTRACT.features:
            for name, chosen in _segments(columns[feature.name], is_category=feature.is_category):
                if min((chosen & own).sum(), (~chosen & own).sum()) >= FEWEST_LABELS:
                    candidates.append((str(version), feature.name, name, chosen))
    found = []
    for version, feature_name, name, chosen in candidates:
        own = (held["version"] == version).to_numpy()
        inside, outside = losses_of[chosen & own], losses_of[~chosen & own]
        excess = float(inside.mean() - outside.mean())
        variances = inside.var(ddof=1) / len(inside), outside.var(ddof=1) / len(outside)
        error = float(np.sqrt(sum(variances)))
        freedom = sum(variances) ** 2 / max(
            variances[0] ** 2 / (len(inside) - 1) + variances[1] ** 2 / (len(outside) - 1), 1e-300
        )
        low = excess - float(stats.t.ppf(1 - _FAMILY_ERROR / len(candidates), freedom)) * error
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
    note = f"{len(candidates)} segments were looked at; the intervals hold for all of them together (Bonferroni)."
    return tuple(sorted(found, key=lambda failing: -failing.excess)), note


def _segments(values: pd.Series[Any], *, is_category: bool) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    if is_category:
        for category in sorted(values.dropna().unique()):
            yield str(category), (values == category).to_numpy()
    else:
        numbers = pd.to_numeric(values)
        edges = np.unique(numbers.quantile(np.linspace(0, 1, NUMBER_SEGMENTS + 1)).to_numpy())
        for low, high in pairwise(edges):
            chosen = (numbers >= low) & ((numbers < high) | (high == edges[-1]))
            yield f"{low:.4g} to {high:.4g}", chosen.to_numpy()
    if values.isna().any():
        yield "missing", values.isna().to_numpy()
