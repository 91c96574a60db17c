"""Reads the trees of scikit-learn, XGBoost, LightGBM and CatBoost models into forests (forest.py).

Only what a library documents or saves in a public format is read: the `tree_` arrays, XGBoost's JSON model, LightGBM's
`dump_model`, CatBoost's JSON model; histogram gradient boosting has no public form, so its predictors' nodes are read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handoff.conversion.columns import Floats
from handoff.conversion.forest import LEAF, Answers, Forest, Tree
from handoff.errors import ImportRefused

# Functions from the sum of the trees to the model's answer.
Link = Literal["identity", "logistic", "softmax", "exp", "proportions"]


@dataclass(frozen=True, slots=True)
class Boosted:
    """A model that is a forest and a link. scale: what the sum is multiplied with before the link."""

    forest: Forest
    link: Link


def sklearn_forest(model: Any) -> Boosted:
    """Read a decision tree, random forest or extra trees: the mean of the trees' leaves."""
    trees = [model] if hasattr(model, "tree_") else list(model.estimators_)
    classes = getattr(model, "classes_", None)
    return Boosted(
        Forest([_sklearn_tree(tree.tree_, classes is not None, 1 / len(trees)) for tree in trees], _zeros(classes)),
        "identity" if classes is None else "proportions",
    )


def sklearn_boosting(model: Any) -> Boosted:
    """Read a GradientBoostingClassifier or GradientBoostingRegressor."""
    stages = model.estimators_
    outputs = stages.shape[1]
    trees = [
        _spread(_sklearn_tree(tree.tree_, False, model.learning_rate), output, outputs)
        for stage in stages
        for output, tree in enumerate(stage)
    ]
    if type(model.init_).__name__ not in ("DummyClassifier", "DummyRegressor", "str") and model.init_ != "zero":
        raise ImportRefused(f"its init is a {type(model.init_).__name__}; leave init at its default")
    base = np.asarray(model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32)))[0]
    if not hasattr(model, "classes_"):
        return Boosted(Forest(trees, base), "identity")
    if getattr(model, "loss", "log_loss") == "exponential":  # the probability is the sigmoid of twice the sum
        trees = [_scaled(tree, 2.0) for tree in trees]
        base = base * 2.0
    return Boosted(Forest(trees, base), "logistic" if outputs == 1 else "softmax")


def hist_boosting(model: Any) -> Boosted:
    """Read a HistGradientBoostingClassifier or -Regressor; thresholds are float64 and stay exact."""
    outputs = model.n_trees_per_iteration_
    bitsets, place = (
        model._bin_mapper.make_known_categories_bitsets() if model.is_categorical_ is not None else (None, {})
    )
    trees = []
    for stage in model._predictors:
        for output, predictor in enumerate(stage):
            nodes = predictor.nodes
            questions: dict[int, Callable[[Floats], Answers]] = {}
            for number in np.flatnonzero(nodes["is_categorical"] & ~nodes["is_leaf"].astype(bool)):
                node = nodes[number]
                known = None if bitsets is None else bitsets[place[node["feature_idx"]]]
                left = predictor.raw_left_cat_bitsets[node["bitset_idx"]]
                questions[int(number)] = _in_bitset(left, known, bool(node["missing_go_to_left"]))
            leaf = nodes["is_leaf"].astype(bool)
            tree = Tree(
                feature=np.where(leaf, LEAF, nodes["feature_idx"]).astype(np.int64),
                threshold=nodes["num_threshold"].astype(np.float64),
                left=nodes["left"].astype(np.int64),
                right=nodes["right"].astype(np.int64),
                missing_left=nodes["missing_go_to_left"].astype(bool),
                values=nodes["value"].astype(np.float64)[:, None],
                questions=questions,
            )
            trees.append(_spread(tree, output, outputs))
    base = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    forest = Forest(trees, base, single=False)
    if hasattr(model, "classes_"):
        return Boosted(forest, "logistic" if outputs == 1 else "softmax")
    return Boosted(forest, "exp" if model.loss in ("poisson", "gamma") else "identity")


def xgboost_forest(model: Any) -> Boosted:
    """Read an XGBClassifier or XGBRegressor (trees; no categorical splits)."""
    booster = model.get_booster()
    stored = json.loads(bytes(booster.save_raw("json")))["learner"]
    kind = stored["gradient_booster"]["name"]
    if kind != "gbtree":
        raise ImportRefused(f"its booster is {kind}; wanted: gbtree")
    if model.missing is not None and not np.isnan(model.missing):
        raise ImportRefused(f"missing={model.missing} is another value than NaN; leave `missing` at its default")
    objective = stored["objective"]["name"]
    links: dict[str, Link] = {
        "binary:logistic": "logistic",
        "reg:logistic": "logistic",
        "multi:softprob": "softmax",
        "count:poisson": "exp",
        "reg:gamma": "exp",
        "reg:tweedie": "exp",
    }
    plain = (
        "reg:squarederror",
        "reg:absoluteerror",
        "reg:pseudohubererror",
        "reg:quantileerror",
        "reg:squaredlogerror",
    )
    if objective not in links and objective not in plain:
        raise ImportRefused(f"its objective is {objective}; wanted: one of {', '.join([*links, *plain])}")
    link = links.get(objective, "identity")
    parameters = stored["learner_model_param"]
    outputs = max(1, int(parameters["num_class"]), int(parameters.get("num_target", 1)))
    body = stored["gradient_booster"]["model"]
    per_round = outputs * int(body["gbtree_model_param"]["num_parallel_tree"])
    best = getattr(model, "best_iteration", None) if getattr(model, "early_stopping_rounds", None) else None
    count = len(body["trees"]) if best is None else (int(best) + 1) * per_round
    trees = [
        _spread(_xgboost_tree(tree), int(output), outputs)
        for tree, output in zip(body["trees"][:count], body["tree_info"][:count], strict=True)
    ]
    base = np.atleast_1d(np.array(json.loads(parameters["base_score"]), dtype=np.float64))
    base = np.broadcast_to(base, (outputs,)).copy() if base.size in (1, outputs) else np.zeros(outputs)
    if link == "logistic":
        base = np.log(base / (1 - base))
    elif link == "exp":
        base = np.log(base)
    return Boosted(Forest(trees, base, strict=True), link)


def lightgbm_forest(model: Any) -> Boosted:
    """Read an LGBMClassifier or LGBMRegressor; thresholds are float64 and stay exact."""
    booster = model.booster_
    best = booster.best_iteration if booster.best_iteration > 0 else None
    stored = booster.dump_model(num_iteration=best)
    objective, *settings = str(stored["objective"]).split()
    links: dict[str, Link] = {
        "binary": "logistic",
        "multiclass": "softmax",
        "poisson": "exp",
        "gamma": "exp",
        "tweedie": "exp",
    }
    plain = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
    if objective not in links and objective not in plain:
        raise ImportRefused(f"its objective is {objective}; wanted: one of {', '.join([*links, *plain])}")
    if "sqrt" in settings:
        raise ImportRefused("its objective has reg_sqrt; train without it")
    outputs = int(stored["num_tree_per_iteration"])
    scale = next((float(text.removeprefix("sigmoid:")) for text in settings if text.startswith("sigmoid:")), 1.0)
    rounds = len(stored["tree_info"]) // outputs
    if stored.get("average_output"):
        scale /= rounds
    trees = [
        _spread(_scaled(_lightgbm_tree(tree["tree_structure"]), scale), number % outputs, outputs)
        for number, tree in enumerate(stored["tree_info"])
    ]
    return Boosted(Forest(trees, np.zeros(outputs), single=False), links.get(objective, "identity"))


def catboost_forest(model: Any) -> Boosted:
    """Read a CatBoostClassifier or CatBoostRegressor with symmetric trees over numbers."""
    if model.get_cat_feature_indices() or model.get_text_feature_indices():
        raise ImportRefused(
            "it takes categories itself (cat_features), which is not converted; encode them in a Pipeline with "
            "OneHotEncoder or OrdinalEncoder before CatBoost"
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.json"
        model.save_model(str(path), format="json")
        stored = json.loads(path.read_bytes())
    if "oblivious_trees" not in stored:
        raise ImportRefused("its grow_policy is not SymmetricTree; train with grow_policy='SymmetricTree'")
    features = stored["features_info"]["float_features"]
    place = {feature["feature_index"]: feature["flat_feature_index"] for feature in features}
    # NaN is less than every number ("AsMin", the default) or more; "AsIs" means that training saw none.
    missing_left = {f["flat_feature_index"]: f.get("nan_value_treatment") != "AsTrue" for f in features}
    scale, base = stored["scale_and_bias"]
    bias = np.atleast_1d(np.array(base, dtype=np.float64))
    trees = [_catboost_tree(tree, place, missing_left, len(bias), scale) for tree in stored["oblivious_trees"]]
    loss = str(model.get_all_params()["loss_function"]).split(":")[0]
    if hasattr(model, "predict_proba"):
        if loss not in ("Logloss", "CrossEntropy", "MultiClass"):
            raise ImportRefused(f"its loss_function is {loss}; wanted: Logloss, CrossEntropy or MultiClass")
        return Boosted(Forest(trees, bias), "logistic" if len(bias) == 1 else "softmax")
    return Boosted(Forest(trees, bias), "exp" if loss in ("Poisson", "Tweedie") else "identity")


def _sklearn_tree(tree: Any, classes: bool, scale: float) -> Tree:
    values = np.asarray(tree.value[:, 0, :], dtype=np.float64)
    if classes:
        values = values / values.sum(axis=1, keepdims=True)
        values = values[:, 1:] if values.shape[1] == 2 else values
    missing = getattr(tree, "missing_go_to_left", None)
    return Tree(
        feature=np.where(tree.children_left == -1, LEAF, tree.feature).astype(np.int64),
        threshold=np.asarray(tree.threshold, dtype=np.float64),
        left=np.asarray(tree.children_left, dtype=np.int64),
        right=np.asarray(tree.children_right, dtype=np.int64),
        missing_left=np.zeros(tree.node_count, dtype=bool) if missing is None else np.asarray(missing, dtype=bool),
        values=values * scale,
    )


def _xgboost_tree(tree: Any) -> Tree:
    if any(tree["split_type"]):
        raise ImportRefused("it splits on categories itself (enable_categorical); encode them in a Pipeline instead")
    left = np.array(tree["left_children"], dtype=np.int64)
    conditions = np.array(tree["split_conditions"], dtype=np.float32).astype(np.float64)
    leaf = left == -1
    return Tree(
        feature=np.where(leaf, LEAF, np.array(tree["split_indices"], dtype=np.int64)),
        threshold=conditions,
        left=left,
        right=np.array(tree["right_children"], dtype=np.int64),
        missing_left=np.array(tree["default_left"], dtype=bool),
        values=np.where(leaf, conditions, 0.0)[:, None],
    )


def _lightgbm_tree(root: Any) -> Tree:
    rows: list[list[Any]] = []
    questions: dict[int, Callable[[Floats], Answers]] = {}

    def visit(node: Any) -> int:
        number = len(rows)
        if "leaf_value" in node:
            if "leaf_coeff" in node:
                raise ImportRefused("it has linear trees (linear_tree); train without them")
            rows.append([LEAF, 0.0, 0, 0, False, float(node["leaf_value"])])
            return number
        threshold, kind = node["threshold"], node["missing_type"]
        if kind == "Zero":
            raise ImportRefused("it takes zero for missing (zero_as_missing); train without it")
        missing_left = bool(node["default_left"])
        if node["decision_type"] == "==":
            questions[number] = _in_set(frozenset(int(code) for code in str(threshold).split("||")))
            missing_left, threshold = False, 0.0
        elif kind == "None":  # NaN counts as zero
            missing_left = float(threshold) >= 0.0
        rows.append([int(node["split_feature"]), float(threshold), 0, 0, missing_left, 0.0])
        rows[number][2] = visit(node["left_child"])
        rows[number][3] = visit(node["right_child"])
        return number

    visit(root)
    feature, threshold, left, right, missing_left, value = zip(*rows, strict=True)
    return Tree(
        feature=np.array(feature, dtype=np.int64),
        threshold=np.array(threshold, dtype=np.float64),
        left=np.array(left, dtype=np.int64),
        right=np.array(right, dtype=np.int64),
        missing_left=np.array(missing_left, dtype=bool),
        values=np.array(value, dtype=np.float64)[:, None],
        questions=questions,
    )


def _catboost_tree(tree: Any, place: Any, missing_left: Any, outputs: int, scale: float) -> Tree:
    """Unfold a symmetric tree: level d asks the d-th split from the end, and bit i of a leaf's index is split i."""
    splits = tree["splits"] or []
    depth = len(splits)
    inner = 2**depth - 1
    feature, threshold, missing = [], [], []
    for level in range(depth):
        split = splits[depth - 1 - level]
        if split["split_type"] != "FloatFeature":
            raise ImportRefused(f"it has splits of type {split['split_type']}; wanted: FloatFeature")
        flat = place[split["float_feature_index"]]
        feature += [flat] * 2**level
        threshold += [float(np.float32(split["border"]))] * 2**level
        missing += [bool(missing_left[flat])] * 2**level
    leaves = np.array(tree["leaf_values"], dtype=np.float64).reshape(2**depth, outputs) * scale
    numbers = np.arange(inner, dtype=np.int64)
    none = np.zeros(2**depth, dtype=np.int64)
    return Tree(
        feature=np.concatenate([np.array(feature, dtype=np.int64), none + LEAF]),
        threshold=np.concatenate([np.array(threshold, dtype=np.float64), none.astype(np.float64)]),
        left=np.concatenate([2 * numbers + 1, none]),
        right=np.concatenate([2 * numbers + 2, none]),
        missing_left=np.concatenate([np.array(missing, dtype=bool), none.astype(bool)]),
        values=np.concatenate([np.zeros((inner, outputs)), leaves]),
    )


def _in_set(categories: frozenset[int]) -> Callable[[Floats], Answers]:
    return lambda values: np.array([not np.isnan(value) and int(value) in categories for value in values], dtype=bool)


def _in_bitset(left: Any, known: Any, missing_left: bool) -> Callable[[Floats], Answers]:
    def ask(values: Floats) -> Answers:
        answers = []
        for value in values:
            if not 0 <= value < 256:
                answers.append(missing_left)
            elif left[int(value) // 32] >> (int(value) % 32) & 1:
                answers.append(True)
            else:
                is_known = known is None or known[int(value) // 32] >> (int(value) % 32) & 1
                answers.append(False if is_known else missing_left)
        return np.array(answers, dtype=bool)

    return ask


def _spread(tree: Tree, output: int, outputs: int) -> Tree:
    """Let a tree add to one of several outputs."""
    if outputs == 1:
        return tree
    values = np.zeros((len(tree.values), outputs))
    values[:, output] = tree.values[:, 0]
    return Tree(tree.feature, tree.threshold, tree.left, tree.right, tree.missing_left, values, tree.questions)


def _scaled(tree: Tree, scale: float) -> Tree:
    values = tree.values * scale
    return Tree(tree.feature, tree.threshold, tree.left, tree.right, tree.missing_left, values, tree.questions)


def _zeros(classes: Any) -> Floats:
    return np.zeros(1 if classes is None or len(classes) == 2 else len(classes))
