"""Fitted estimators -> ONNX: pipelines, linear models, tree ensembles, and the ensembles and calibrators around them.

An estimator's answer is a tensor [n, outputs]: for two classes the probability of the second one alone (outputs 1), for
more the probability of each in the order of `classes_`, for a regressor the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from handoff.conversion.columns import (
    Category,
    Column,
    Computed,
    Floats,
    Number,
    look_up_indices,
    materialize,
)
from handoff.conversion.forest import emit_forest
from handoff.conversion.graph import GraphBuilder
from handoff.conversion.transformers import apply_transformer, convert_part
from handoff.conversion.trees import (
    Boosted,
    catboost_forest,
    hist_boosting,
    lightgbm_forest,
    sklearn_boosting,
    sklearn_forest,
    xgboost_forest,
)
from handoff.errors import ImportRefused

FORESTS: Mapping[str, Callable[[Any], Boosted]] = {
    **dict.fromkeys(
        [
            "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor",
            "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
        ],
        sklearn_forest,
    ),
    **dict.fromkeys(["GradientBoostingClassifier", "GradientBoostingRegressor"], sklearn_boosting),
    **dict.fromkeys(["HistGradientBoostingClassifier", "HistGradientBoostingRegressor"], hist_boosting),
    **dict.fromkeys(["XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor"], xgboost_forest),
    **dict.fromkeys(["LGBMClassifier", "LGBMRegressor"], lightgbm_forest),
    **dict.fromkeys(["CatBoostClassifier", "CatBoostRegressor"], catboost_forest),
}  # fmt: skip
# Estimators that only wrap the fitted one.
WRAPPERS: Mapping[str, str] = {
    "FrozenEstimator": "estimator",
    "GridSearchCV": "best_estimator_",
    "RandomizedSearchCV": "best_estimator_",
    "HalvingGridSearchCV": "best_estimator_",
    "HalvingRandomSearchCV": "best_estimator_",
    "TunedThresholdClassifierCV": "estimator_",
    "FixedThresholdClassifier": "estimator_",
}
INVERSES = {"exp": "Exp", "expm1": "Expm1", "log": "Log", "sqrt": "Sqrt"}
WOULD_CONVERT = (
    "linear models, trees, forests, gradient boosting (also histogram), XGBoost, LightGBM, CatBoost, "
    "CalibratedClassifierCV, Voting, Stacking, Bagging, and what skl2onnx knows"
)


@dataclass(frozen=True, slots=True)
class Compiler:
    """Adds estimators to a graph. nullable: whether a packed feature may be NaN."""

    graph: GraphBuilder
    nullable: bool = False

    def answer(self, model: Any, columns: Sequence[Column], path: str) -> str:
        """Return the tensor of an estimator's answer. Raises ImportRefused naming the step that does not convert."""
        kind = type(model).__name__
        if kind == "Pipeline":
            return self.answer(*self.before_last(model, columns, path))
        if kind in WRAPPERS:
            return self.answer(getattr(model, WRAPPERS[kind]), columns, path)
        if kind in FORESTS:
            return self._forest(model, columns, path)
        if kind == "CalibratedClassifierCV":
            return self._mean([self._calibrated(part, columns, path) for part in model.calibrated_classifiers_])
        if kind in ("VotingClassifier", "VotingRegressor"):
            return self._voting(model, columns, path)
        if kind in ("StackingClassifier", "StackingRegressor"):
            return self._stacking(model, columns, path)
        if kind in ("BaggingClassifier", "BaggingRegressor"):
            parts = [
                self.answer(part, [columns[place] for place in chosen], f"{path} > {number}")
                for number, (part, chosen) in enumerate(zip(model.estimators_, model.estimators_features_, strict=True))
            ]
            return self._mean(parts)
        if kind == "TransformedTargetRegressor":
            return self._transformed_target(model, columns, path)
        if hasattr(model, "coef_") and not hasattr(model, "dual_coef_"):
            return self._linear_answer(model, columns, path)
        return self._through_skl2onnx(model, columns, path)

    def margin(self, model: Any, columns: Sequence[Column], path: str) -> str | None:
        """Return the tensor of `decision_function` ([n, 1] for two classes), None where there is none."""
        kind = type(model).__name__
        if kind == "Pipeline":
            return self.margin(*self.before_last(model, columns, path))
        if kind in WRAPPERS:
            return self.margin(getattr(model, WRAPPERS[kind]), columns, path)
        if not hasattr(model, "decision_function"):
            return None
        if kind in FORESTS:
            boosted = _read(model, path)
            # The sum of an exponential loss was doubled for its probability.
            tensor = emit_forest(self.graph, boosted.forest, _own(self.graph, model, columns), nullable=self.nullable)
            doubled = getattr(model, "loss", "") == "exponential"
            tensor = self.graph.cast(tensor, np.float64)
            return self.graph.add("Mul", tensor, self._float(0.5)) if doubled else tensor
        if hasattr(model, "coef_") and not hasattr(model, "dual_coef_"):
            return self._linear(model, columns)
        raise ImportRefused(
            f"{path} ({kind}) is calibrated on its decision_function, which is not converted; calibrate a model whose "
            f"own kind converts: {WOULD_CONVERT}"
        )

    def before_last(self, model: Any, columns: Sequence[Column], path: str) -> tuple[Any, Sequence[Column], str]:
        """Return a pipeline's last step, the columns that the steps before it make, and its path."""
        for name, step in model.steps[:-1]:
            columns = apply_transformer(self.graph, step or "passthrough", columns, _join(path, name))
        name, last = model.steps[-1]
        return last, columns, _join(path, name)

    def _forest(self, model: Any, columns: Sequence[Column], path: str) -> str:
        boosted = _read(model, path)
        columns = _own(self.graph, model, columns)
        try:
            tensor = emit_forest(self.graph, boosted.forest, columns, nullable=self.nullable)
        except ValueError as error:
            raise ImportRefused(f"{path} ({type(model).__name__}) does not convert: {error}") from error
        match boosted.link:
            case "logistic":
                return self.graph.add("Sigmoid", tensor)
            case "softmax":
                return self.graph.add("Softmax", tensor, axis=1)
            case "exp":
                return self.graph.add("Exp", tensor)
            case _:
                return tensor

    def _linear_answer(self, model: Any, columns: Sequence[Column], path: str) -> str:
        kind = type(model).__name__
        margin = self._linear(model, columns)
        if not hasattr(model, "classes_"):
            link = getattr(getattr(model, "_base_loss", None), "link", None)
            is_log = type(link).__name__ == "LogLink"
            return self.graph.add("Exp", margin) if is_log else margin
        if kind in ("LogisticRegression", "LogisticRegressionCV"):
            if len(model.classes_) == 2:
                return self.graph.add("Sigmoid", margin)
            if getattr(model, "multi_class", "auto") == "ovr" or getattr(model, "solver", "") == "liblinear":
                return self._normalized(self.graph.add("Sigmoid", margin))
            return self.graph.add("Softmax", margin, axis=1)
        if kind == "SGDClassifier" and model.loss == "log_loss":
            sigmoid = self.graph.add("Sigmoid", margin)
            return sigmoid if len(model.classes_) == 2 else self._normalized(sigmoid)
        if kind == "LinearDiscriminantAnalysis":
            return self.graph.add("Sigmoid" if len(model.classes_) == 2 else "Softmax", margin)
        raise ImportRefused(
            f"{path} ({kind}) has no probabilities; wanted: a classifier with predict_proba, for example wrapped in "
            "CalibratedClassifierCV"
        )

    def _linear(self, model: Any, columns: Sequence[Column]) -> str:
        """Fold the encoders into the coefficients: one table by code, one product with the numbers (float64)."""
        graph = self.graph
        weights = np.asarray(model.coef_, dtype=np.float64)
        weights = weights.reshape(1, -1) if weights.ndim == 1 else weights
        base = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (len(weights),)).copy()
        tables: dict[int, Floats] = {}
        numbers: list[Column] = []
        kept: list[int] = []
        for place, column in enumerate(columns):
            if isinstance(column, Category):
                part = np.asarray(column.values, dtype=np.float64)[:, None] * weights[:, place]
                tables[column.source] = tables[column.source] + part if column.source in tables else part
            elif weights[:, place].any():
                numbers.append(column)
                kept.append(place)
        factors = weights[:, kept].T
        affine = [column for column in numbers if isinstance(column, Number) and _is_affine(column)]
        if len(affine) == len(numbers):
            numbers, factors, base = _folded(affine, factors, base)
        terms = []
        if tables:
            # The constant goes into the first table: a row takes exactly one entry of it.
            first = next(iter(tables))
            tables[first] = tables[first] + base
            indices = look_up_indices(graph, list(tables), [len(table) for table in tables.values()])
            entries = graph.add("Gather", graph.constant(np.concatenate(list(tables.values())), np.float64), indices)
            terms.append(graph.add("ReduceSum", entries, graph.constant([1], np.int64), keepdims=0))
        if numbers:
            product = graph.add("MatMul", materialize(graph, numbers), graph.constant(factors, np.float64))
            terms.append(product if tables else graph.add("Add", product, graph.constant(base, np.float64)))
        if not terms:
            raise ImportRefused("all coefficients of the linear model are zero")
        return terms[0] if len(terms) == 1 else graph.add("Add", *terms)

    def _calibrated(self, part: Any, columns: Sequence[Column], path: str) -> str:
        model = part.estimator
        path = _join(path, type(model).__name__)
        score = self.margin(model, columns, path)
        if score is None:
            score = self.answer(model, columns, path)
        score = self.graph.cast(score, np.float64)
        kind = type(part.calibrators[0]).__name__
        if kind == "_TemperatureScaling":
            return self._temperature(model, float(part.calibrators[0].beta_), score)
        graph = self.graph
        outputs = []
        for output, calibrator in enumerate(part.calibrators):
            one = score if len(part.calibrators) == 1 else graph.select(score, [output])
            if type(calibrator).__name__ == "_SigmoidCalibration":
                scaled = graph.add("Mul", one, self._float(-calibrator.a_))
                outputs.append(graph.add("Sigmoid", graph.add("Add", scaled, self._float(-calibrator.b_))))
            elif type(calibrator).__name__ == "IsotonicRegression":
                outputs.append(self._isotonic(calibrator, one))
            else:
                raise ImportRefused(
                    f"{path} is calibrated with {type(calibrator).__name__}; wanted: method='sigmoid' or 'isotonic'"
                )
        if len(outputs) == 1:
            return outputs[0]
        return self._normalized(graph.add("Concat", *outputs, axis=1))

    def _temperature(self, model: Any, beta: float, score: str) -> str:
        """Divide the log-odds by a temperature; a decision value of two classes stands for (-x, x)."""
        graph = self.graph
        is_binary = len(model.classes_) == 2
        if hasattr(model, "decision_function"):
            scaled = graph.add("Mul", score, self._float(2 * beta if is_binary else beta))
        else:
            logits = graph.add("Log", graph.add("Add", score, self._float(1e-12)))
            if is_binary:
                other = graph.add("Log", graph.add("Sub", self._float(1 + 1e-12), score))
                logits = graph.add("Sub", logits, other)
            scaled = graph.add("Mul", logits, self._float(beta))
        return graph.add("Sigmoid", scaled) if is_binary else graph.add("Softmax", scaled, axis=1)

    def _isotonic(self, calibrator: Any, score: str) -> str:
        """Interpolate between the knots, flat outside: the segment is found by counting the knots below."""
        graph = self.graph
        x = np.asarray(calibrator.X_thresholds_, dtype=np.float64)
        y = np.asarray(calibrator.y_thresholds_, dtype=np.float64)
        if len(x) < 2:
            return graph.add("Add", graph.add("Mul", score, self._float(0.0)), self._float(y[0]))
        slopes = np.concatenate([[0.0], np.diff(y) / np.diff(x), [0.0]])
        anchors = np.concatenate([[x[0]], x])  # a segment's left end
        starts = np.concatenate([[y[0]], y])
        above = graph.cast(graph.add("GreaterOrEqual", score, graph.constant(x[None, :], np.float64)), np.int64)
        segment = graph.add("ReduceSum", above, graph.constant([1], np.int64), keepdims=1)
        offset = graph.add("Sub", score, graph.add("Gather", graph.constant(anchors, np.float64), segment))
        rise = graph.add("Mul", offset, graph.add("Gather", graph.constant(slopes, np.float64), segment))
        return graph.add("Add", rise, graph.add("Gather", graph.constant(starts, np.float64), segment))

    def _voting(self, model: Any, columns: Sequence[Column], path: str) -> str:
        if getattr(model, "voting", "soft") != "soft":
            raise ImportRefused(f"{path or 'the model'} votes by class; wanted: VotingClassifier(voting='soft')")
        names = [name for name, part in model.estimators if part != "drop"]
        parts = [
            self.answer(part, columns, _join(path, name)) for name, part in zip(names, model.estimators_, strict=True)
        ]
        return self._mean(parts, model._weights_not_none)

    def _stacking(self, model: Any, columns: Sequence[Column], path: str) -> str:
        names = [name for name, part in model.estimators if part != "drop"]
        stacked: list[Column] = []
        for name, part, method in zip(names, model.estimators_, model.stack_method_, strict=True):
            if method == "decision_function":
                tensor = self.margin(part, columns, _join(path, name)) or ""
            elif method == "predict" and hasattr(part, "classes_"):
                raise ImportRefused(f"{_join(path, name)} is stacked by its class; wanted: predict_proba")
            else:
                tensor = self.answer(part, columns, _join(path, name))
            classes = len(getattr(part, "classes_", ()))
            tensor = self.graph.cast(tensor, np.float64)
            stacked += [Computed(tensor, index) for index in range(classes if classes > 2 else 1)]
        if model.passthrough:
            stacked += columns
        return self.answer(model.final_estimator_, stacked, _join(path, "final_estimator"))

    def _transformed_target(self, model: Any, columns: Sequence[Column], path: str) -> str:
        value = self.graph.cast(self.answer(model.regressor_, columns, _join(path, "regressor")), np.float64)
        inverse = model.transformer_
        kind = type(inverse).__name__
        if kind == "StandardScaler":
            if inverse.with_std:
                value = self.graph.add("Mul", value, self._float(inverse.scale_[0]))
            return self.graph.add("Add", value, self._float(inverse.mean_[0])) if inverse.with_mean else value
        name = getattr(getattr(inverse, "inverse_func", None), "__name__", "")
        if kind != "FunctionTransformer" or name not in INVERSES:
            raise ImportRefused(
                f"{path or 'the model'} transforms its target with {kind} {name}; wanted: StandardScaler or "
                f"inverse_func one of numpy's {', '.join(INVERSES)}"
            )
        if name == "expm1":
            return self.graph.add("Sub", self.graph.add("Exp", value), self._float(1.0))
        return self.graph.add(INVERSES[name], value)

    def _through_skl2onnx(self, model: Any, columns: Sequence[Column], path: str) -> str:
        kind = type(model).__name__
        classes = getattr(model, "classes_", None)
        if not hasattr(model, "predict") or (classes is not None and not hasattr(model, "predict_proba")):
            raise ImportRefused(
                f"{path or 'the model'} is a {kind}; wanted: a classifier with predict_proba or a regressor"
            )
        try:
            tensor, _ = convert_part(self.graph, model, columns, classifier=classes is not None)
        except Exception as error:  # the converter raises whatever it meets, bare RuntimeError and KeyError included
            reason = " ".join(str(error).split())[:160]
            raise ImportRefused(
                f"{path or 'the model'} ({kind}) does not convert to ONNX: {reason}. What converts: {WOULD_CONVERT}"
            ) from error
        return self.graph.select(tensor, [1]) if classes is not None and len(classes) == 2 else tensor

    def _mean(self, parts: Sequence[str], weights: Sequence[float] | None = None) -> str:
        graph = self.graph
        if len(parts) == 1:
            return parts[0]
        shares = np.full(len(parts), 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
        shares = shares / shares.sum()
        weighted = [
            graph.add("Mul", graph.cast(part, np.float64), self._float(share))
            for part, share in zip(parts, shares, strict=True)
        ]
        return graph.add("Sum", *weighted)

    def _normalized(self, tensor: str) -> str:
        total = self.graph.add("ReduceSum", tensor, self.graph.constant([1], np.int64), keepdims=1)
        return self.graph.add("Div", tensor, total)

    def _float(self, value: Any) -> str:
        return self.graph.constant([float(value)], np.float64)


def _read(model: Any, path: str) -> Boosted:
    try:
        return FORESTS[type(model).__name__](model)
    except ImportRefused as error:
        where = f"the step {path}" if path else "the model"
        raise ImportRefused(f"{where} ({type(model).__name__}) does not convert: {error}") from error


def _own(graph: GraphBuilder, model: Any, columns: Sequence[Column]) -> Sequence[Column]:
    """Return the columns after what a histogram gradient boosting model does itself: its categories come first."""
    preprocessor = getattr(model, "_preprocessor", None)
    return columns if preprocessor is None else apply_transformer(graph, preprocessor, columns, type(model).__name__)


def _is_affine(column: Number) -> bool:
    return all(operation.kind in ("add", "sub", "mul", "div") for operation in column.operations)


def _folded(numbers: list[Number], factors: Floats, base: Floats) -> tuple[list[Column], Floats, Floats]:
    """Fold scaling into the factors: w * (a x + b) is (w a) x + w b."""
    plain: list[Column] = []
    scales = []
    base = base.copy()
    for place, column in enumerate(numbers):
        scale, offset = 1.0, np.zeros(1)
        for operation in column.operations:
            offset = operation.apply(offset)
            if operation.kind in ("mul", "div"):
                scale = float(operation.apply(np.array([scale]))[0])
        scales.append(scale)
        base = base + factors[place] * float(offset[0])
        plain.append(Number(column.source, decimal=column.decimal))
    return plain, factors * np.array(scales)[:, None], base


def _join(path: str, name: str) -> str:
    return f"{path} > {name}" if path else name
