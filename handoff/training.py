"""Trains the churn model on encoded rows (XGBoost or a scikit-learn pipeline), measures it, and writes stock files.

The stock files are those that MLServer's own runtimes serve: raw feature vectors in, probabilities of the same
registered model out. The XGBoost file is the booster alone: that runtime loads it as a regressor, whose `predict` is
the probability of the positive class. The scikit-learn file is a pickle: serve it only from your own registry.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from xgboost import XGBClassifier

from custom_runtime.contract import FEATURES, NAME
from custom_runtime.model.encoding import Matrix, decode_row
from handoff.dataset import Dataset
from handoff.errors import TrainingRefused
from handoff.registered import Reference

Flavor = Literal["xgboost", "sklearn"]
FLAVORS: tuple[Flavor, ...] = get_args(Flavor)

SEED = 7
HELD_OUT_FRACTION = 0.2
# Five random splits of the reference table give 0.839 to 0.861 (mean 0.848); a model below this is a broken one.
MINIMUM_AUC = 0.83
XGBOOST_PARAMETERS: Mapping[str, Any] = {
    "n_estimators": 200,
    "max_depth": 4,
    "learning_rate": 0.03,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 5,
    "tree_method": "hist",
    "objective": "binary:logistic",
}
XGBOOST_FILE = f"{NAME}-xgboost.ubj"
SKLEARN_FILE = f"{NAME}-sklearn.joblib"


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A fitted classifier with its metrics, defaults and reference rows.

    metrics: auc, log_loss and brier on held-out rows that the measured model has never seen; with `refitted`, `model`
    was fitted again on all rows afterwards. defaults: the training rows' medians and modes as contract values.
    reference: every row of the table with its label, and what the measured model answered on the held-out ones.
    data_digest: sha256 (hex) of the encoded rows and labels.
    """

    flavor: Flavor
    model: Any
    source: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    defaults: Mapping[str, float | str]
    reference: Reference
    data_digest: str
    refitted: bool


def train(
    dataset: Dataset,
    flavor: Flavor = "xgboost",
    *,
    seed: int = SEED,
    minimum_auc: float = MINIMUM_AUC,
    refit: bool = True,
) -> TrainedModel:
    """Fit on a stratified 80 %, measure on the rest, then fit on all rows. The same data and seed give the same model.

    refit: without, the measured model is the one that is returned.
    Raises TrainingRefused when the labels cannot be split, or the held-out AUC is below `minimum_auc`.
    """
    counts = np.bincount(dataset.labels, minlength=2)
    if counts.min() < 1 / HELD_OUT_FRACTION:
        raise TrainingRefused(
            f"{dataset.source} has {counts[1]} positive and {counts[0]} negative rows; at least 5 of each are needed"
        )
    chosen, held_out = train_test_split(
        np.arange(len(dataset.labels)), test_size=HELD_OUT_FRACTION, stratify=dataset.labels, random_state=seed
    )
    rows, truth = dataset.rows[chosen], dataset.labels[held_out]
    model, parameters = _classifier(flavor, seed)
    model.fit(rows, dataset.labels[chosen])
    scores = model.predict_proba(dataset.rows[held_out])[:, 1]
    metrics = {
        "auc": float(roc_auc_score(truth, scores)),
        "log_loss": float(log_loss(truth, scores)),
        "brier": float(brier_score_loss(truth, scores)),
    }
    if metrics["auc"] < minimum_auc:
        raise TrainingRefused(
            f"held-out AUC is {metrics['auc']:.4f} on {len(truth)} rows of {dataset.source}; "
            f"at least {minimum_auc:g} is wanted (churn-serving train --min-auc)"
        )
    if refit:
        model, _ = _classifier(flavor, seed)
        model.fit(dataset.rows, dataset.labels)
    mask = np.zeros(len(dataset.labels), dtype=bool)
    mask[held_out] = True
    order = np.argsort(held_out)  # answers stand in the order of the table
    return TrainedModel(
        flavor,
        model,
        dataset.source,
        parameters,
        metrics,
        defaults_of(rows),
        Reference(dataset.rows, dataset.labels, mask, scores[order].astype(np.float64)[:, None]),
        digest_of(dataset.rows, dataset.labels),
        refit,
    )


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


def defaults_of(rows: Matrix) -> dict[str, float | str]:
    """Return the medians (numbers) and modes (categories) of rows as contract values."""
    typical = [
        np.bincount(column.astype(np.int64)).argmax() if feature.is_category else np.median(column)
        for feature, column in zip(FEATURES, rows.T, strict=True)
    ]
    row = decode_row(np.array(typical, dtype=np.float32))
    # 70.2 as a person writes it, not as float32 holds it: 70.19999694824219.
    return {name: float(str(np.float32(value))) if isinstance(value, float) else value for name, value in row.items()}


def _classifier(flavor: Flavor, seed: int) -> tuple[Any, dict[str, Any]]:
    if flavor == "xgboost":
        # One thread trains in 0.1 s; more of them wait for each other when the machine is busy.
        return XGBClassifier(**XGBOOST_PARAMETERS, random_state=seed, n_jobs=1), {**XGBOOST_PARAMETERS, "seed": seed}
    codes = [position for position, feature in enumerate(FEATURES) if feature.is_category]
    numbers = [position for position, feature in enumerate(FEATURES) if not feature.is_category]
    # Every category of the contract gets its column, also one that the training rows lack.
    known = [np.arange(len(FEATURES[position].categories), dtype=np.float32) for position in codes]
    encode = ColumnTransformer(
        [("codes", OneHotEncoder(categories=known, sparse_output=False), codes), ("numbers", StandardScaler(), numbers)]
    )
    parameters = {"C": 1.0, "max_iter": 2000}
    classifier = LogisticRegression(**parameters, random_state=seed)
    return Pipeline([("encode", encode), ("classify", classifier)]), {**parameters, "seed": seed}


def write_stock(model: Any, directory: Path) -> Path:
    """Write the file of a fitted model in one rename and return its path."""
    if isinstance(model, XGBClassifier):
        name, content = XGBOOST_FILE, bytes(model.get_booster().save_raw("ubj"))
    else:
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        name, content = SKLEARN_FILE, buffer.getvalue()
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{name}.{os.getpid()}"
    temporary.write_bytes(content)
    return temporary.replace(directory / name)
