"""What the import writes to explain a model adds up to the model's margin, and agrees with the libraries' values."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import xgboost
from sklearn.pipeline import Pipeline
from xgboost import XGBClassifier

from custom_runtime.active import CONTRACT
from custom_runtime.errors import NotExplainable
from custom_runtime.model.encoding import POSITIONS, WIDTH
from custom_runtime.model.explaining import PLAN, Explainer, ExplanationPlan, build_explainer
from handoff.conversion.convert import answers_of
from handoff.conversion.explaining import explanation_files
from handoff.dataset import Dataset
from handoff.importing import TARGET
from tests.support.model_kinds import CATEGORIES, ENCODED, KINDS, RAW, fit, preprocessed

EXPLAINED = {
    "LogisticRegression, OneHotEncoder and StandardScaler": "linear",
    "LogisticRegression, SimpleImputer before both": "linear",
    "LogisticRegression, TargetEncoder": "linear",
    "LogisticRegression, SelectKBest": "linear",
    "SGDClassifier (log loss)": "linear",
    "XGBClassifier, one-hot": "encoded_xgboost",
    "XGBClassifier on encoded columns": "xgboost",
    "LightGBM, one-hot": "lightgbm",
    "LightGBM, ordinal": "lightgbm",
    "LightGBM on encoded columns": "lightgbm",
    "CatBoost, ordinal": "catboost",
    "CatBoost on encoded columns": "catboost",
}


def opened(files: dict[str, bytes]) -> tuple[ExplanationPlan, Explainer]:
    plan = ExplanationPlan.model_validate_json(files[PLAN])
    return plan, build_explainer(plan, files.__getitem__)


def logit(probabilities: Any) -> Any:
    return np.log(probabilities / (1 - probabilities))


@pytest.mark.parametrize("name", EXPLAINED)
def test_contributions_add_up_to_the_margin_for_every_customer(
    name: str, rows: Any, labels: Any, dataset: Dataset
) -> None:
    kind = KINDS[name]
    model = fit(kind, 20, rows, labels)
    plan, explainer = opened(explanation_files(model, kind.inputs, TARGET, rows))
    assert plan.kind == EXPLAINED[name], plan.reason
    explained = explainer.explain(dataset.rows)
    assert explained.values.shape == (len(dataset.rows), WIDTH)
    margin = logit(answers_of(model, kind.inputs, TARGET, dataset.rows)[:, 0])
    np.testing.assert_allclose(explained.log_odds, margin, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "name", ["RandomForestClassifier", "HistGradientBoostingClassifier", "LogisticRegression, PCA"]
)
def test_what_has_no_explanation_says_why(name: str, rows: Any, labels: Any) -> None:
    model = fit(KINDS[name], 5, rows, labels)
    files = explanation_files(model, KINDS[name].inputs, TARGET, rows)
    assert list(files) == [PLAN]
    with pytest.raises(NotExplainable, match=r"explained are XGBoost, LightGBM|out of several features"):
        opened(files)


def test_one_hot_columns_are_added_up_to_their_feature(rows: Any, labels: Any, dataset: Dataset) -> None:
    model: Pipeline = preprocessed(XGBClassifier(n_estimators=30, max_depth=3, n_jobs=1)).fit(RAW.frame(rows), labels)
    _, explainer = opened(explanation_files(model, RAW, TARGET, rows))
    explained = explainer.explain(dataset.rows)
    encoded = model[:-1].transform(RAW.frame(dataset.rows))
    own = model[-1].get_booster().predict(xgboost.DMatrix(encoded, nthread=1), pred_contribs=True)
    expected = np.zeros((len(dataset.rows), WIDTH))
    for place, column in enumerate(model[:-1].get_feature_names_out()):
        part, rest = column.split("__", 1)
        feature = max((c for c in CATEGORIES if rest.startswith(f"{c}_")), key=len) if part == "categories" else rest
        expected[:, POSITIONS[feature]] += own[:, place]
    np.testing.assert_allclose(explained.values, expected, atol=1e-6)
    assert explained.base == pytest.approx(float(own[0, -1]))


def test_an_early_stopped_model_is_explained_by_the_trees_that_answer(rows: Any, labels: Any) -> None:
    model = XGBClassifier(n_estimators=60, max_depth=5, learning_rate=0.5, early_stopping_rounds=3, n_jobs=1)
    model.fit(rows[:1000], labels[:1000], eval_set=[(rows[1000:], labels[1000:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    plan, explainer = opened(explanation_files(model, ENCODED, TARGET, rows))
    assert plan.kind == "xgboost", plan.reason
    np.testing.assert_allclose(explainer.explain(rows).log_odds, logit(model.predict_proba(rows)[:, 1]), atol=1e-4)


def test_the_values_are_shapley_values_by_their_definition(rows: Any, labels: Any) -> None:
    """Every subset of features, each tree's expectation weighted by its covers: no library's algorithm."""
    used = [POSITIONS[name] for name in ("tenure_months", "contract", "monthly_charges", "internet_service")]
    model = XGBClassifier(n_estimators=3, max_depth=3, n_jobs=1)
    narrow = np.zeros_like(rows)
    narrow[:, used] = rows[:, used]
    model.fit(narrow, labels)
    _, explainer = opened(explanation_files(model, ENCODED, TARGET, narrow))
    explained = explainer.explain(narrow[:20])
    trees = [json.loads(tree) for tree in model.get_booster().get_dump(dump_format="json", with_stats=True)]
    for row, values in zip(narrow[:20], explained.values, strict=True):
        for feature in used:
            assert values[feature] == pytest.approx(shapley(trees, row, feature, used), abs=1e-5)


def shapley(trees: list[Any], row: Any, feature: int, used: list[int]) -> float:
    others = [other for other in used if other != feature]
    total = 0.0
    for size in range(len(used)):
        weight = math.factorial(size) * math.factorial(len(used) - size - 1) / math.factorial(len(used))
        for known in itertools.combinations(others, size):
            gained = sum(
                expectation(tree, row, {*known, feature}) - expectation(tree, row, set(known)) for tree in trees
            )
            total += weight * gained
    return total


def expectation(node: Any, row: Any, known: set[int]) -> float:
    if "leaf" in node:
        return float(node["leaf"])
    children = {child["nodeid"]: child for child in node["children"]}
    yes, no = children[node["yes"]], children[node["no"]]
    feature = int(node["split"].removeprefix("f"))
    if feature in known:
        return expectation(yes if row[feature] < np.float32(node["split_condition"]) else no, row, known)
    cover = yes["cover"] + no["cover"]
    return (yes["cover"] * expectation(yes, row, known) + no["cover"] * expectation(no, row, known)) / cover


def test_a_linear_contribution_is_the_features_part_against_its_mean(rows: Any, labels: Any) -> None:
    kind = KINDS["LogisticRegression, OneHotEncoder and StandardScaler"]
    model = fit(kind, 1, rows, labels)
    _, explainer = opened(explanation_files(model, kind.inputs, TARGET, rows))
    np.testing.assert_allclose(explainer.explain(rows).values.mean(axis=0), 0.0, atol=1e-6)
    # Nothing else of a row moves the part of a feature.
    changed = rows[:2].copy()
    changed[1] = changed[0]
    place = next(place for place, feature in enumerate(CONTRACT.features) if feature.name == "contract")
    changed[1, place] = (changed[0, place] + 1) % 3
    first, second = explainer.explain(changed).values
    assert np.flatnonzero(np.abs(first - second) > 1e-9).tolist() == [place]


def test_a_model_whose_classes_are_reversed_is_explained_for_the_positive_one(rows: Any, labels: Any) -> None:
    words = np.where(labels == 1, "Yes", "no ")  # sorted: "Yes" comes first
    words = np.char.strip(words)
    kind = KINDS["LogisticRegression, OneHotEncoder and StandardScaler"]
    model = fit(kind, 1, rows, np.where(words == "no", "false", "True"))
    assert list(model.classes_) == ["True", "false"]
    plan, explainer = opened(explanation_files(model, kind.inputs, TARGET, rows))
    assert plan.scale == -1.0
    margin = logit(model.predict_proba(kind.inputs.frame(rows))[:, 0])
    np.testing.assert_allclose(explainer.explain(rows).log_odds, margin, atol=2e-5, rtol=2e-5)
