"""A registered model -> the files by which the pod explains its predictions (custom_runtime/model/explaining.py).

Trees keep their library's native file, behind their pipeline's encoders as columns of a matrix; a linear model is its
weights and the mean of each feature's part. An explanation is kept only if it adds up to what the model answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_runtime.errors import BundleError, NotExplainable
from custom_runtime.model.explaining import PLAN, ExplanationPlan, build_explainer, columns_to_features
from custom_runtime.model.matrix import MatrixBuilder, MatrixColumn
from handoff.conversion.columns import Category, Column, Number
from handoff.conversion.convert import Target, answers_of, class_order
from handoff.conversion.estimators import WRAPPERS, Compiler
from handoff.conversion.graph import GraphBuilder
from handoff.conversion.inputs import ModelInput
from handoff.errors import ImportRefused

# Probabilities are compared: log-odds beyond 10 differ by more than this in float32, and no reader sees it.
TOLERANCE = 1e-5
CHECKED_ROWS = 256
WOULD_EXPLAIN = (
    "XGBoost, LightGBM and CatBoost, alone or as the last step of a pipeline, and linear models "
    "(LogisticRegression, SGDClassifier with log_loss, LinearDiscriminantAnalysis)"
)

Rows = NDArray[np.float32]


class _NoExplanation(Exception):
    """The model has no explanation; the message says why."""


def explanation_files(model: Any, inputs: ModelInput, target: Target, rows: Rows) -> dict[str, bytes]:
    """Return role -> bytes: the plan, and what it takes. rows: reference rows, float32 [n, WIDTH].

    A model that cannot be explained has a plan that says why; it is served all the same.
    """
    try:
        plan, files = _plan(model, inputs, target, rows)
        _check(plan, files, model, inputs, target, rows)
    except (_NoExplanation, NotExplainable, BundleError, ImportRefused, ValueError) as error:
        plan, files = ExplanationPlan(kind="none", reason=" ".join(str(error).split())), {}
    return {PLAN: plan.model_dump_json(exclude_defaults=True).encode(), **files}


def _plan(model: Any, inputs: ModelInput, target: Target, rows: Rows) -> tuple[ExplanationPlan, dict[str, bytes]]:
    if target.kind != "binary":
        raise _NoExplanation(f"the contract's task is {target.kind}; explained are probabilities of two classes")
    last, columns = _last_step(GraphBuilder(rows.shape[1]), model, inputs.traced(model))
    kind = type(last).__name__
    sign = -1.0 if class_order(model, target) == [1, 0] else 1.0
    made = tuple(_matrix_column(column) for column in columns)
    files: dict[str, bytes] = {}
    if kind in ("XGBClassifier", "XGBRFClassifier"):
        if _is_packed_row(columns, rows.shape[1]):
            plan = ExplanationPlan(kind="xgboost", scale=sign)
        else:
            plan = ExplanationPlan(kind="encoded_xgboost", columns=made, scale=sign)
        files[plan.kind] = _xgboost(last)
    elif kind == "LGBMClassifier":
        plan = ExplanationPlan(kind="lightgbm", columns=made, scale=sign * _lightgbm_scale(last))
        files["lightgbm"] = _lightgbm(last)
    elif kind == "CatBoostClassifier":
        plan = ExplanationPlan(kind="catboost", columns=made, scale=sign)
        files["catboost"] = _catboost(last)
    elif _is_logistic(last):
        plan = _linear(last, made, sign, rows)
    else:
        raise _NoExplanation(f"the model is a {kind}; explained are {WOULD_EXPLAIN}")
    return plan, files


def _last_step(graph: GraphBuilder, model: Any, columns: Sequence[Column]) -> tuple[Any, Sequence[Column]]:
    """Unwrap pipelines and searches: the estimator that answers, and the columns that it takes."""
    path = ""
    while True:
        kind = type(model).__name__
        if kind == "Pipeline":
            model, columns, path = Compiler(graph).before_last(model, columns, path)
        elif kind in WRAPPERS:
            model = getattr(model, WRAPPERS[kind])
        else:
            return model, columns


def _matrix_column(column: Column) -> MatrixColumn:
    if isinstance(column, Category):
        return MatrixColumn(source=column.source, table=tuple(np.asarray(column.values, dtype=np.float64).tolist()))
    if isinstance(column, Number):
        chain = tuple((operation.kind, operation.value) for operation in column.operations)
        return MatrixColumn(source=column.source, decimal=column.decimal, operations=chain)
    raise _NoExplanation(
        "a step before the model computes a column out of several features, whose shares of it are not defined"
    )


def _is_packed_row(columns: Sequence[Column], width: int) -> bool:
    return [getattr(column, "source", None) for column in columns] == list(range(width)) and all(
        np.array_equal(column.values, np.arange(len(column.values)))
        if isinstance(column, Category)
        else isinstance(column, Number) and not column.operations
        for column in columns
    )


def _xgboost(model: Any) -> bytes:
    booster = model.get_booster()
    if getattr(model, "early_stopping_rounds", None) and getattr(model, "best_iteration", None) is not None:
        booster = booster[: int(model.best_iteration) + 1]
    return bytes(booster.save_raw("ubj"))


def _lightgbm(model: Any) -> bytes:
    booster = model.booster_
    best = booster.best_iteration if booster.best_iteration > 0 else None
    return str(booster.model_to_string(num_iteration=best)).encode()


def _lightgbm_scale(model: Any) -> float:
    """Return what LightGBM multiplies its sum by before the sigmoid."""
    settings = str(model.booster_.dump_model(num_iteration=1)["objective"]).split()
    return next((float(text.removeprefix("sigmoid:")) for text in settings if text.startswith("sigmoid:")), 1.0)


def _catboost(model: Any) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.cbm"
        model.save_model(str(path), format="cbm")
        return path.read_bytes()


def _is_logistic(model: Any) -> bool:
    kind = type(model).__name__
    return kind in ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis") or (
        kind == "SGDClassifier" and model.loss == "log_loss"
    )


def _linear(model: Any, columns: tuple[MatrixColumn, ...], sign: float, rows: Rows) -> ExplanationPlan:
    weights = np.asarray(model.coef_, dtype=np.float64).reshape(-1)
    table = weights[:, None] * columns_to_features([column.source for column in columns]) * sign
    parts = MatrixBuilder(columns, np.float64).build(rows) @ table
    return ExplanationPlan(
        kind="linear",
        columns=columns,
        scale=sign,
        weights=tuple(weights.tolist()),
        intercept=float(np.asarray(model.intercept_).reshape(-1)[0]),
        center=tuple(parts.mean(axis=0).tolist()),
    )


def _check(
    plan: ExplanationPlan,
    files: Mapping[str, bytes],
    model: Any,
    inputs: ModelInput,
    target: Target,
    rows: Rows,
) -> None:
    """Refuse an explanation that does not add up to the model's answers."""
    read: Callable[[str], bytes] = files.__getitem__
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, CHECKED_ROWS, dtype=np.int64))]
    explained = build_explainer(plan, read).explain(np.ascontiguousarray(sample))
    with np.errstate(over="ignore"):
        probabilities = 1 / (1 + np.exp(-explained.log_odds))
    difference = float(np.abs(probabilities - answers_of(model, inputs, target, sample)[:, 0]).max())
    if not difference <= TOLERANCE:
        raise _NoExplanation(
            f"the contributions of {plan.kind} add up to another probability than the "
            f"model's, by {difference:.3g}; allowed: {TOLERANCE:g}"
        )
