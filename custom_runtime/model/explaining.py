"""Feature matrix -> what each feature of the contract adds to the log-odds of the positive class.

    log-odds = base + the sum of a row's contributions

Trees are explained by TreeSHAP of the library that made them (XGBoost, LightGBM, CatBoost), on the native model file
that the import wrote into the bundle; a linear model exactly, as each feature's part of the sum against its mean over
the reference rows. A pipeline's encoders are computed as they were fitted (matrix.py), and the columns that they made
of one feature are added up. No file is a pickle. What has no explanation says why: `NotExplainable`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from custom_runtime.errors import BundleError, NotExplainable
from custom_runtime.model.bundle import Bundle
from custom_runtime.model.encoding import WIDTH, Matrix
from custom_runtime.model.matrix import MatrixBuilder, MatrixColumn
from custom_runtime.model.xgboost_library import LibraryError, XgboostLibrary

# The role of the plan in the bundle. A native model file has the kind of its plan as its role.
PLAN = "explanation"
EXTRAS = {"lightgbm": "lightgbm", "catboost": "catboost"}

Floats = NDArray[np.float64]
Contribute = Callable[[NDArray[Any]], NDArray[Any]]
ReadFile = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Contributions:
    """values: float64 [n, WIDTH], in the contract's order. base: the log-odds before any feature is known."""

    values: Floats
    base: float

    @property
    def log_odds(self) -> Floats:
        """The model's margin, float64 [n]."""
        return np.asarray(self.base + self.values.sum(axis=1))


class Explainer(Protocol):
    """Explains rows. It is called by one thread at a time, and must not hold the interpreter's lock for long."""

    def explain(self, rows: Matrix) -> Contributions:
        """Return the contributions of rows float32 [n, WIDTH]."""


class ExplanationPlan(BaseModel):
    """How the model of a bundle is explained: the file `explanation`, written by the import.

    kind: what explains; "none" has a reason. scale: what the library's values are multiplied by to be log-odds of the
    positive class. columns: of the model's matrix, in its order; of the kind "xgboost" none: it takes the packed row.
    weights, intercept, center: of a linear model: one weight a column, and each feature's mean part of the sum.
    """

    # A table may hold NaN, for a missing category.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    kind: Literal["xgboost", "encoded_xgboost", "lightgbm", "catboost", "linear", "none"]
    reason: str = ""
    scale: float = 1.0
    columns: tuple[MatrixColumn, ...] = ()
    weights: tuple[float, ...] = ()
    intercept: float = 0.0
    center: tuple[float, ...] = ()

    @property
    def sources(self) -> list[int]:
        """For each column of the model's matrix, the place of its feature in the packed row."""
        return [column.source for column in self.columns] if self.columns else list(range(WIDTH))


def open_explainer(bundle: Bundle) -> Explainer:
    """Open what explains a bundle's model.

    Raises NotExplainable when the model has no explanation, or its library is not installed; BundleError when a file
    is not what it should be.
    """
    if PLAN in bundle.files:
        try:
            plan = ExplanationPlan.model_validate_json(bundle.path(PLAN).read_bytes())
        except ValidationError as error:
            raise BundleError(f"{bundle.path(PLAN)} is no explanation plan: {error}; import the model again") from error
    elif "xgboost" in bundle.files:  # a bundle of an earlier import, of a model that takes the packed row
        plan = ExplanationPlan(kind="xgboost")
    else:
        plan = ExplanationPlan(kind="none", reason="the bundle has no explanation; import the model again")
    return build_explainer(plan, lambda role: bundle.path(role).read_bytes())


def build_explainer(plan: ExplanationPlan, read: ReadFile) -> Explainer:
    """Make the explainer of a plan; read: role -> the file's bytes. Raises NotExplainable or BundleError."""
    if plan.kind == "none":
        raise NotExplainable(f"this model has no explanation: {plan.reason}")
    if plan.kind == "linear":
        return LinearExplainer(plan)
    package = "xgboost" if plan.kind == "encoded_xgboost" else plan.kind
    if importlib.util.find_spec(package) is None:
        raise _not_installed(package)
    return TreeExplainer(plan, _OpenedAtFirstUse(_LIBRARIES[plan.kind], read(plan.kind)))


class _OpenedAtFirstUse:
    """A model in its library, which takes some 50 MB and is loaded by the first explanation that is asked for."""

    def __init__(self, open_model: Callable[[bytes], Contribute], content: bytes) -> None:
        self._open = open_model
        self._content = content
        self._contribute: Contribute | None = None

    def __call__(self, matrix: Any) -> Any:
        """Return the contributions. Raises NotExplainable when the library refuses the model."""
        if self._contribute is None:  # explanations run on one thread
            self._contribute = self._open(self._content)
        return self._contribute(matrix)


class TreeExplainer:
    """TreeSHAP of the library that made the trees; columns of one feature are added up."""

    def __init__(self, plan: ExplanationPlan, contribute: Contribute) -> None:
        # LightGBM compares float64 with its thresholds, the others float32.
        dtype = np.float64 if plan.kind == "lightgbm" else np.float32
        self._build = MatrixBuilder(plan.columns, dtype).build if plan.columns else None
        self._contribute = contribute
        self._scale = plan.scale
        self._to_features = columns_to_features(plan.sources)

    def explain(self, rows: Matrix) -> Contributions:
        """Return the contributions of rows."""
        matrix = rows if self._build is None else self._build(rows)
        raw = np.asarray(self._contribute(matrix), dtype=np.float64) * self._scale
        return Contributions(raw[:, :-1] @ self._to_features, float(raw[0, -1]))


class LinearExplainer:
    """A feature's part of the sum, against its mean over the reference rows: the SHAP values of a linear model."""

    def __init__(self, plan: ExplanationPlan) -> None:
        self._build = MatrixBuilder(plan.columns, np.float64).build
        self._weights = np.array(plan.weights)[:, None] * columns_to_features(plan.sources) * plan.scale
        self._center = np.array(plan.center)
        self._base = plan.intercept * plan.scale + float(self._center.sum())

    def explain(self, rows: Matrix) -> Contributions:
        """Return the contributions of rows."""
        parts = self._build(rows) @ self._weights
        return Contributions(parts - self._center, self._base)


def columns_to_features(sources: Sequence[int]) -> Floats:
    """Return float64 [columns, WIDTH] with a 1 where a column belongs to a feature."""
    table = np.zeros((len(sources), WIDTH))
    table[np.arange(len(sources)), sources] = 1.0
    return table


def _open_xgboost(content: bytes) -> Contribute:
    try:
        return XgboostLibrary(content).contributions
    except LibraryError as error:
        raise NotExplainable(f"XGBoost cannot explain this model: {error}") from error


def _open_lightgbm(content: bytes) -> Contribute:
    lightgbm = _import("lightgbm")
    booster = lightgbm.Booster(model_str=content.decode())
    return lambda matrix: booster.predict(matrix, pred_contrib=True, num_threads=1)


def _open_catboost(content: bytes) -> Contribute:
    catboost = _import("catboost")
    model = catboost.CatBoost()
    model.load_model(blob=content)
    return lambda matrix: model.get_feature_importance(
        catboost.Pool(np.asarray(matrix, dtype=np.float32)), type="ShapValues", thread_count=1
    )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _not_installed(name) from error


def _not_installed(name: str) -> NotExplainable:
    how = f"; install the extra: pip install churn-serving[{EXTRAS[name]}]" if name in EXTRAS else ""
    return NotExplainable(f"this model is explained by the package {name}, which is not installed here{how}")


_LIBRARIES: Mapping[str, Callable[[bytes], Contribute]] = {
    "xgboost": _open_xgboost,
    "encoded_xgboost": _open_xgboost,
    "lightgbm": _open_lightgbm,
    "catboost": _open_catboost,
}
