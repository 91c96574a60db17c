"""Trains a model on encoded rows (XGBoost or a scikit-learn pipeline), measures it, and writes stock files.

The stock files are those that MLServer's own runtimes serve: raw feature vectors in, probabilities of the same
registered model out. The XGBoost file is the booster alone: that runtime loads it as a regressor, whose `predict` is
the probability of the positive class. The scikit-learn file is a pickle: serve it only from your own registry.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from xgboost import XGBClassifier, XGBModel, XGBRegressor

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import Matrix, decode_row
from custom_runtime.schema import Feature, TaskKind, Value
from handoff.dataset import Dataset
from handoff.errors import TrainingRefused
from handoff.evaluation.measures import HIGHER_IS_BETTER, MEASURED, metrics
from handoff.registered import Reference

Flavor = Literal["xgboost", "sklearn"]
FLAVORS: tuple[Flavor, ...] = get_args(Flavor)

SEED = 7
HELD_OUT_FRACTION = 0.2
XGBOOST_PARAMETERS: Mapping[str, Any] = {
    "n_estimators": 200,
    "max_depth": 4,
    "learning_rate": 0.03,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 5,
    "tree_method": "hist",
}
OBJECTIVES: Mapping[TaskKind, str] = {
    "binary": "binary:logistic",
    "multiclass": "multi:softprob",
    "regression": "reg:squarederror",
}
# What an interval's ends and its value are, where the contract has one: it holds 90 % of the truths.
QUANTILES = (0.05, 0.5, 0.95)
XGBOOST_FILE = f"{CONTRACT.name}-xgboost.ubj"
SKLEARN_FILE = f"{CONTRACT.name}-sklearn.joblib"
FEATURES = CONTRACT.features


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fitted model with its metrics, defaults and reference rows.

    metrics: those of the task, on held-out rows that the measured model has never seen; with `refitted`, `model` was
    fitted again on all rows afterwards. defaults: the training rows' medians and modes as contract values.
    reference: every row of the table with its label, and what the measured model answered on the held-out ones.
    data_digest: sha256 (hex) of the encoded rows and labels.
    """

    flavor: Flavor
    model: Any
    source: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    defaults: Mapping[str, Value]
    reference: Reference
    data_digest: str
    refitted: bool


def train(
    dataset: Dataset,
    flavor: Flavor = "xgboost",
    *,
    seed: int = SEED,
    floor: Mapping[str, float] | None = None,
    refit: bool = True,
) -> TrainedModel:
    """Fit on 80 % (stratified by class), measure on the rest, then fit on all rows.

    The same data and seed give the same model. floor: metric -> the least value that is good enough (the most, for a
    metric where less is better); None: the contract's. refit: without, the measured model is the one that is returned.
    Raises TrainingRefused when the labels cannot be split, or a held-out metric is not good enough.
    """
    task = CONTRACT.task.kind
    _check_flavor(flavor)
    strata = None if task == "regression" else dataset.labels
    _check_labels(dataset)
    chosen, held_out = train_test_split(
        np.arange(len(dataset.labels)), test_size=HELD_OUT_FRACTION, stratify=strata, random_state=seed
    )
    rows, truth = dataset.rows[chosen], dataset.labels[held_out]
    model, parameters = _estimator(flavor, seed)
    model.fit(rows, dataset.labels[chosen])
    answers = _answers(model, dataset.rows[held_out])
    found = metrics(task, truth if task == "regression" else truth.astype(np.int64), answers)
    _check_floor(found, CONTRACT.floor if floor is None else floor, f"{len(truth)} rows of {dataset.source}")
    if refit:
        model, _ = _estimator(flavor, seed)
        model.fit(dataset.rows, dataset.labels)
    mask = np.zeros(len(dataset.labels), dtype=bool)
    mask[held_out] = True
    order = np.argsort(held_out)  # answers stand in the order of the table
    return TrainedModel(
        flavor,
        model,
        dataset.source,
        parameters,
        found,
        defaults_of(rows),
        Reference(dataset.rows, dataset.labels, mask, answers[order]),
        digest_of(dataset.rows, dataset.labels),
        refit,
    )


def _check_flavor(flavor: Flavor) -> None:
    """Raise TrainingRefused when this kind of model cannot answer as the contract does."""
    if CONTRACT.output("interval") is not None and flavor != "xgboost":
        raise TrainingRefused(
            f"the contract predicts an interval, and --flavor is {flavor}, which fits a value alone; allowed: --flavor "
            "xgboost (quantiles), or register a model of your own whose predict returns three columns: the lower end, "
            "the value, the upper end"
        )


def _check_labels(dataset: Dataset) -> None:
    """Raise TrainingRefused when a class has too few rows for both parts."""
    classes = CONTRACT.task.classes
    fewest = int(1 / HELD_OUT_FRACTION)
    if not classes:
        if len(dataset.labels) < fewest:
            raise TrainingRefused(f"{dataset.source} has {len(dataset.labels)} rows; at least {fewest} are needed")
        return
    counts = np.bincount(dataset.labels, minlength=len(classes))
    if counts.min() < fewest:
        found = ", ".join(f"{count} {name!r}" for name, count in zip(classes, counts, strict=True))
        raise TrainingRefused(f"{dataset.source} has {found} rows; at least {fewest} of each are needed")


def check_floor_names(floor: Mapping[str, float], measured: Iterable[str] = MEASURED[CONTRACT.task.kind]) -> None:
    """Raise TrainingRefused when a floor names a metric that is not measured."""
    known = list(measured)
    for name in floor:
        if name not in known:
            raise TrainingRefused(f"the floor names the metric {name!r}; allowed: {', '.join(known)}")


def _check_floor(found: Mapping[str, float], floor: Mapping[str, float], measured: str) -> None:
    check_floor_names(floor, found)
    for name, wanted in floor.items():
        is_higher_better = name in HIGHER_IS_BETTER
        if found[name] < wanted if is_higher_better else found[name] > wanted:
            raise TrainingRefused(
                f"held-out {name} is {found[name]:.4f} on {measured}; at {'least' if is_higher_better else 'most'} "
                f"{wanted:g} is wanted (the contract's floor, or churn-serving train --floor)"
            )


def _answers(model: Any, rows: Matrix) -> NDArray[np.float64]:
    """Return what the service would answer, float64 [n, outputs]."""
    if CONTRACT.task.kind == "regression":
        return np.asarray(model.predict(rows), dtype=np.float64).reshape(len(rows), -1)
    chances = np.asarray(model.predict_proba(rows), dtype=np.float64)
    return chances[:, 1:] if CONTRACT.task.kind == "binary" else chances


def digest_of(rows: Matrix, labels: NDArray[Any]) -> str:
    """Return the sha256 (64 hex digits) of encoded rows and labels: the same digest is the same training data."""
    digest = hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").tobytes())
    digest.update(np.ascontiguousarray(labels, dtype="<f8").tobytes())
    return digest.hexdigest()


def git_revision(directory: Path | None = None) -> str:
    """Return the commit of the working tree, with "-dirty" after it when it has changes; "" outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def defaults_of(rows: Matrix) -> dict[str, Value]:
    """Return the medians (numbers) and modes (categories, booleans) of rows as contract values; null for no value."""
    row = decode_row(
        np.array([_typical(feature, column) for feature, column in zip(FEATURES, rows.T, strict=True)], np.float32)
    )
    # 70.2 as a person writes it, not as float32 holds it: 70.19999694824219.
    return {name: float(str(np.float32(value))) if type(value) is float else value for name, value in row.items()}


def _typical(feature: Feature, column: NDArray[np.float32]) -> float:
    present = column[~np.isnan(column)]
    if not len(present):
        return float("nan") if feature.nullable else feature.minimum
    if feature.kind in ("category", "boolean"):
        return float(np.bincount(present.astype(np.int64)).argmax())
    median = float(np.median(present))
    return float(round(median)) if feature.kind == "integer" else median


def _estimator(flavor: Flavor, seed: int) -> tuple[Any, dict[str, Any]]:
    task = CONTRACT.task.kind
    if flavor == "xgboost":
        parameters = {**XGBOOST_PARAMETERS, "objective": OBJECTIVES[task]}
        if CONTRACT.output("interval") is not None:
            parameters |= {"objective": "reg:quantileerror", "quantile_alpha": list(QUANTILES)}
        made = XGBRegressor if task == "regression" else XGBClassifier
        # One thread trains in 0.1 s; more of them wait for each other when the machine is busy.
        return made(**parameters, random_state=seed, n_jobs=1), {**parameters, "seed": seed}
    codes = [position for position, feature in enumerate(FEATURES) if feature.is_category]
    numbers = [position for position, feature in enumerate(FEATURES) if not feature.is_category]
    # Every category of the contract gets its column, also one that the training rows lack.
    known = [np.arange(len(FEATURES[position].codes), dtype=np.float32) for position in codes]
    scale: Any = StandardScaler()
    if any(feature.nullable for feature in FEATURES):
        scale = Pipeline([("fill", SimpleImputer(strategy="median")), ("scale", scale)])
    encode = ColumnTransformer(
        [("codes", OneHotEncoder(categories=known, sparse_output=False), codes), ("numbers", scale, numbers)]
    )
    if task == "regression":
        return Pipeline([("encode", encode), ("predict", Ridge())]), {"alpha": 1.0, "seed": seed}
    parameters = {"C": 1.0, "max_iter": 2000}
    classifier = LogisticRegression(**parameters, random_state=seed)
    return Pipeline([("encode", encode), ("classify", classifier)]), {**parameters, "seed": seed}


def write_stock(model: Any, directory: Path) -> Path:
    """Write the file of a fitted model in one rename and return its path."""
    if isinstance(model, XGBModel):
        name, content = XGBOOST_FILE, bytes(model.get_booster().save_raw("ubj"))
    else:
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        name, content = SKLEARN_FILE, buffer.getvalue()
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{name}.{os.getpid()}"
    temporary.write_bytes(content)
    return temporary.replace(directory / name)
