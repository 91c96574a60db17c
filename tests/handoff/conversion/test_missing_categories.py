"""A category that may be missing reaches a pipeline as it was fitted on it, and the graph answers the same."""

import warnings
from typing import Any, Literal

import numpy as np
import onnx
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from pydantic import BaseModel
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from xgboost import XGBClassifier

from custom_runtime.model.explaining import ExplanationPlan
from custom_runtime.model.matrix import MatrixColumn
from custom_runtime.schema import category, features_of, numeric
from handoff.conversion.convert import Target, answers_of, convert
from handoff.conversion.inputs import ModelInput, match_signature
from handoff.conversion.parity import compare
from handoff.errors import ImportRefused

HOMES, JOBS = ("owner", "parents", "rent"), ("fixed", "freelance")


class Applicant(BaseModel):
    home: Literal["owner", "parents", "rent"] | None = category("Whose home it is.", example="rent")
    job: Literal["fixed", "freelance"] = category("The kind of job.", example="fixed")
    income: float | None = numeric("Income in a month.", minimum=0, maximum=10_000, example=1_500.0)


FEATURES = features_of(Applicant, key=None)
TARGET = Target("binary", "probability", ("good", "bad"))
TEXT, NUMBERS = ["home", "job"], ["income"]
KINDS: dict[str, Any] = {
    "SimpleImputer, the most frequent": make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False)
    ),
    "SimpleImputer, a constant": make_pipeline(
        SimpleImputer(strategy="constant", fill_value="unknown"), OneHotEncoder(handle_unknown="ignore")
    ),
    "OneHotEncoder, missing is a category": OneHotEncoder(sparse_output=False),
    "OneHotEncoder, missing unknown": OneHotEncoder(categories=[list(HOMES), list(JOBS)], handle_unknown="ignore"),
    "OrdinalEncoder, missing stays missing": OrdinalEncoder(),
    "OrdinalEncoder, a code": OrdinalEncoder(encoded_missing_value=-1),
    "TargetEncoder": TargetEncoder(random_state=0),
}
MODELS: dict[str, Any] = {
    "logistic": LogisticRegression(max_iter=500),
    "forest": RandomForestClassifier(20, random_state=0),
    "histogram": HistGradientBoostingClassifier(max_iter=20),
    "xgboost": XGBClassifier(n_estimators=20, n_jobs=1),
    "lightgbm": LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1),
}


def drawn() -> NDArray[np.float32]:
    random = np.random.default_rng(4)
    rows = np.empty((400, 3), dtype=np.float32)
    rows[:, 0], rows[:, 1] = random.integers(4, size=400), random.integers(2, size=400)
    rows[:, 2] = random.gamma(2, 800, size=400).round(2)
    rows[::9, 2] = np.nan
    return rows


ROWS = drawn()
# A missing home decides, so that a model that takes it for another one is found out.
LABELS = np.where((ROWS[:, 0] == 3) ^ (np.nan_to_num(ROWS[:, 2]) < 300), "bad", "good")


def table(missing: Any = float("nan")) -> pd.DataFrame:
    """The rows as a team has them."""
    homes = pd.Series([(*HOMES, missing)[int(code)] for code in ROWS[:, 0]], dtype=object)
    jobs = [JOBS[int(code)] for code in ROWS[:, 1]]
    return pd.DataFrame({"home": homes, "job": jobs, "income": ROWS[:, 2].astype("U32").astype(float)})


def inputs_of(kind: str = "string") -> ModelInput:
    return match_signature([("job", "string"), ("home", kind), ("income", "double")], FEATURES, uri="models:/m/1")


def preprocessed(encoder: Any, model: Any) -> Pipeline:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = ColumnTransformer([("text", encoder, TEXT), ("numbers", numbers, NUMBERS)])
    return Pipeline([("encode", columns), ("classify", model)])


def fitted(encoder: Any, model: Any, missing: Any = float("nan")) -> Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return preprocessed(encoder, model).fit(table(missing), LABELS == "bad" if "XGB" in repr(model) else LABELS)


def assert_equal(model: Any, missing: Any = float("nan")) -> bytes:
    """The model's own answers on its own table are those on the packed rows, and the graph's."""
    target = (
        TARGET if "XGB" not in repr(model) else Target("binary", "probability", ("0", "1"), {"false": 0, "true": 1})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = list(model.classes_).index(True if "XGB" in repr(model) else "bad")
        own = model.predict_proba(table(missing))[:, bad]
        answers = answers_of(model, inputs_of(), target, ROWS)
    np.testing.assert_allclose(answers[:, 0], own, atol=1e-6)
    graph = convert(model, inputs_of(), target, width=3, nullable=True).onnx
    assert compare(graph, answers, ROWS).max_abs_difference <= 1e-5
    return graph


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_takes_a_missing_category_as_it_was_fitted(kind: str) -> None:
    graph = assert_equal(fitted(KINDS[kind], MODELS["forest" if "stays" in kind else "logistic"]))
    assert [value.name for value in onnx.load_from_string(graph).graph.input] == ["features"]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "logistic"])
def test_every_kind_of_trees_splits_on_a_missing_category(name: str) -> None:
    assert_equal(fitted(OneHotEncoder(sparse_output=False), MODELS[name]))
    assert_equal(fitted(OrdinalEncoder(), MODELS[name]))


def test_a_model_that_was_fitted_on_none_is_asked_with_none() -> None:
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    model = fitted(encoder, MODELS["logistic"], None)
    (home, _) = model.named_steps["encode"].named_transformers_["text"].categories_
    assert home[-1] is None
    assert_equal(model, None)
    calibrated = CalibratedClassifierCV(model, cv=2).fit(table(None), LABELS)
    assert_equal(calibrated, None)


def test_an_encoder_that_never_saw_a_missing_category_is_refused_with_what_to_do() -> None:
    data = table()
    data["home"] = data["home"].fillna("rent")
    model = preprocessed(OneHotEncoder(), MODELS["logistic"]).fit(data, LABELS)
    with pytest.raises(
        ImportRefused, match=r"encode > text \(OneHotEncoder\) fails on a category that the contract allows"
    ):
        convert(model, inputs_of(), TARGET, width=3, nullable=True)


def test_a_column_that_cannot_be_missing_is_refused() -> None:
    with pytest.raises(ImportRefused, match="home is boolean"):
        inputs_of("boolean")


def test_an_input_example_with_blank_cells_is_packed() -> None:
    packed = inputs_of().packed(table(), FEATURES)
    np.testing.assert_array_equal(packed, ROWS)
    np.testing.assert_array_equal(inputs_of().packed(table(None), FEATURES), ROWS)


def test_a_plan_of_explanations_keeps_a_missing_value_in_a_table() -> None:
    plan = ExplanationPlan(kind="lightgbm", columns=(MatrixColumn(source=0, table=(0.0, 1.0, float("nan"))),))
    read = ExplanationPlan.model_validate_json(plan.model_dump_json(exclude_defaults=True).encode())
    assert np.isnan(read.columns[0].table or ()).tolist() == [False, False, True]
