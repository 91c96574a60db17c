"""Every kind of model answers as a graph what it answers itself, on the raw columns it was fitted on."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from catboost import CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier, XGBRegressor

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import WIDTH
from handoff.conversion.convert import Target, answers_of, convert
from handoff.conversion.inputs import match_signature
from handoff.conversion.parity import compare, scorer
from handoff.dataset import Dataset
from handoff.errors import ImportRefused
from handoff.importing import TARGET
from tests.support.model_kinds import (
    CATEGORIES,
    ENCODED,
    KINDS,
    NUMBERS,
    RAW,
    REFUSED,
    converted,
    fit,
    imputed,
    ordinal,
    preprocessed,
)

VALUE = Target("regression", "value")


@pytest.mark.parametrize("name", [name for name in KINDS if name not in REFUSED])
def test_a_kind_of_model_imports_within_the_tolerance(name: str, rows: Any, labels: Any, dataset: Dataset) -> None:
    kind = KINDS[name]
    model = fit(kind, 20, rows, labels)
    graph, difference = converted(kind, model, dataset.rows)
    assert difference <= 1e-5
    read = onnx.load_from_string(graph.onnx)
    assert [value.name for value in read.graph.input] == ["features"]
    assert {tensor.data_type for tensor in read.graph.initializer} & {onnx.TensorProto.STRING} == set()


@pytest.mark.parametrize("build", [lambda: XGBClassifier(n_estimators=20), lambda: LGBMClassifier(n_estimators=20)])
def test_trees_behind_encoders_split_on_the_packed_row_itself(rows: Any, labels: Any, build: Any) -> None:
    model = preprocessed(build()).fit(RAW.frame(rows), labels)
    graph = onnx.load_from_string(convert(model, RAW, TARGET, width=WIDTH).onnx).graph
    assert [node.op_type for node in graph.node] == ["TreeEnsembleRegressor", "Sigmoid", "Cast"]


def test_thresholds_that_float32_cannot_hold_are_exact(dataset: Dataset) -> None:
    """Values equal to a threshold: a rounded threshold, or a rounded value, would send them the other way."""
    place = next(place for place, feature in enumerate(CONTRACT.features) if not feature.is_category)
    values = np.array([0.1, 0.2, 0.3, 0.7, 70.35, 70.4, 1.1], dtype=np.float32)
    rows = np.repeat(dataset.rows[:1], 700, axis=0)
    rows[:, place] = np.tile(values, 100)
    labels = (np.tile([0, 1, 0, 1, 0, 1, 1], 100)).astype(int)
    model = ordinal(HistGradientBoostingClassifier(min_samples_leaf=1)).fit(RAW.frame(rows), labels)
    expected = answers_of(model, RAW, TARGET, rows)
    assert len(np.unique(expected.round(3))) > 1
    assert compare(convert(model, RAW, TARGET, width=WIDTH).onnx, expected, rows).max_abs_difference < 1e-6


def test_a_category_that_nobody_was_trained_on_scores_as_the_model_does(rows: Any, labels: Any) -> None:
    place = next(place for place, feature in enumerate(CONTRACT.features) if len(feature.categories) == 3)
    seen = rows[:, place] != 1
    model = preprocessed(RandomForestClassifier(10, random_state=0)).fit(RAW.frame(rows[seen]), labels[seen])
    expected = answers_of(model, RAW, TARGET, rows)
    assert compare(convert(model, RAW, TARGET, width=WIDTH).onnx, expected, rows).max_abs_difference < 1e-6


def test_an_encoder_that_fails_on_a_category_of_the_contract_is_refused_by_name(rows: Any, labels: Any) -> None:
    place = next(place for place, feature in enumerate(CONTRACT.features) if len(feature.categories) == 3)
    seen = rows[:, place] != 1
    model = preprocessed(LogisticRegression(max_iter=500), OneHotEncoder())
    model.fit(RAW.frame(rows[seen]), labels[seen])
    missing = CONTRACT.features[place].categories[1]
    with pytest.raises(ImportRefused, match=rf"the step encode > categories \(OneHotEncoder\) fails .*{missing}"):
        convert(model, RAW, TARGET, width=WIDTH)


def test_nan_goes_where_the_model_sends_it(rows: Any, labels: Any) -> None:
    place = next(place for place, feature in enumerate(CONTRACT.features) if not feature.is_category)
    rows = rows.copy()
    rows[::7, place] = np.nan
    for model in (
        imputed(LogisticRegression(max_iter=500)),
        imputed(XGBClassifier(n_estimators=10)),
        ordinal(HistGradientBoostingClassifier(max_iter=10)),
        ordinal(LGBMClassifier(n_estimators=10, verbose=-1)),
    ):
        model.fit(RAW.frame(rows), labels)
        expected = answers_of(model, RAW, TARGET, rows)
        graph = convert(model, RAW, TARGET, width=WIDTH, nullable=True).onnx
        assert compare(graph, expected, rows).max_abs_difference < 1e-5


@pytest.mark.parametrize(
    "model",
    [
        Ridge(),
        PoissonRegressor(),
        GradientBoostingRegressor(n_estimators=20),
        HistGradientBoostingRegressor(max_iter=20),
        HistGradientBoostingRegressor(max_iter=20, loss="poisson"),
        XGBRegressor(n_estimators=20),
        XGBRegressor(n_estimators=20, objective="count:poisson"),
        LGBMRegressor(n_estimators=20, verbose=-1),
        CatBoostRegressor(iterations=20, verbose=0, allow_writing_files=False, thread_count=1),
        TransformedTargetRegressor(LGBMRegressor(n_estimators=20, verbose=-1), func=np.log1p, inverse_func=np.expm1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_regressors_answer_their_value(model: Any, rows: Any) -> None:
    value = rows[:, -1].astype(np.float64) + 10 * rows[:, 0]
    fitted = preprocessed(model).fit(RAW.frame(rows), value)
    expected = answers_of(fitted, RAW, VALUE, rows)
    graph = convert(fitted, RAW, VALUE, width=WIDTH).onnx
    assert compare(graph, expected, rows, relative=True).max_abs_difference <= 1e-5


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_value_is_compared_on_its_own_scale(unit: float, rows: Any) -> None:
    fitted = preprocessed(Ridge()).fit(RAW.frame(rows), unit * (1.0 + rows[:, 0]))
    expected = answers_of(fitted, RAW, VALUE, rows)
    graph = convert(fitted, RAW, VALUE, width=WIDTH).onnx
    assert compare(graph, expected, rows, relative=True).max_abs_difference <= 1e-6
    with pytest.raises(ImportRefused, match=r"differ by 3\S*e-05 of the value .* allowed: 1e-05 of the value"):
        compare(graph, expected * (1 + 3e-5), rows, relative=True)


def test_a_model_that_always_answers_zero_may_not_differ_at_all(rows: Any) -> None:
    fitted = preprocessed(Ridge()).fit(RAW.frame(rows), np.zeros(len(rows)))
    graph = convert(fitted, RAW, VALUE, width=WIDTH).onnx
    assert compare(graph, np.zeros((len(rows), 1)), rows, relative=True).max_abs_difference == 0


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=300),
        RandomForestClassifier(10, random_state=0),
        HistGradientBoostingClassifier(max_iter=10),
        XGBClassifier(n_estimators=10),
        LGBMClassifier(n_estimators=10, verbose=-1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_several_classes_come_in_the_order_of_the_contract(model: Any, rows: Any) -> None:
    target = Target("multiclass", "probabilities", ("two", "zero", "one"), {"2": 0, "0": 1, "1": 2})
    classes = (rows[:, -1].astype(int) // 100) % 3
    fitted = preprocessed(model).fit(RAW.frame(rows), classes)
    graph = convert(fitted, RAW, target, width=WIDTH).onnx
    assert compare(graph, answers_of(fitted, RAW, target, rows), rows).max_abs_difference <= 1e-5
    own = fitted.predict_proba(RAW.frame(rows))
    np.testing.assert_allclose(scorer(graph)(rows), own[:, [2, 0, 1]], atol=1e-5)


def test_labels_may_be_written_otherwise(rows: Any, labels: Any) -> None:
    for written in (labels.astype(bool), np.where(labels == 1, *TARGET.classes[::-1]), labels.astype(float)):
        model = preprocessed(DecisionTreeClassifier(max_depth=3)).fit(RAW.frame(rows), written)
        expected = answers_of(model, RAW, TARGET, rows)
        assert compare(convert(model, RAW, TARGET, width=WIDTH).onnx, expected, rows).max_abs_difference < 1e-6


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            VotingClassifier([("a", DecisionTreeClassifier())], voting="hard"),
            r"VotingClassifier; wanted: a classifier with predict_proba",
        ),
        (Ridge(), "the model is a Ridge|the model is a Pipeline; wanted: a classifier with predict_proba"),
    ],
)
def test_what_has_no_probabilities_is_refused(model: Any, message: str, rows: Any, labels: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = model.fit(rows, labels)
    with pytest.raises(ImportRefused, match=message):
        convert(fitted, ENCODED, TARGET, width=WIDTH)


def test_an_interval_takes_three_values_of_a_row(rows: Any) -> None:
    target = Target("regression", "value", has_interval=True)
    ends = np.column_stack([rows[:, 0] - 1, rows[:, 0], rows[:, 0] + 2])
    fitted = preprocessed(Ridge()).fit(RAW.frame(rows), ends)
    graph = convert(fitted, RAW, target, width=WIDTH).onnx
    expected = answers_of(fitted, RAW, target, rows)
    assert expected.shape == (len(rows), 3)
    assert compare(graph, expected, rows, relative=True).max_abs_difference <= 1e-5
    alone = preprocessed(Ridge()).fit(RAW.frame(rows), rows[:, 0])
    with pytest.raises(ImportRefused, match=r"predicts 1 values for each row; wanted: 3 \(lower end, value, upper end"):
        answers_of(alone, RAW, target, rows)


def test_three_classes_for_a_contract_of_two_are_refused(rows: Any) -> None:
    model = preprocessed(DecisionTreeClassifier(max_depth=3)).fit(RAW.frame(rows), np.arange(len(rows)) % 3)
    with pytest.raises(ImportRefused, match=r"predicts the classes \['0', '1', '2'\]; wanted: those of the contract"):
        convert(model, RAW, TARGET, width=WIDTH)


def shout(frame: Any) -> Any:
    return pd.DataFrame({"together": frame.iloc[:, 0] + frame.iloc[:, 1]})


def test_a_step_that_joins_text_columns_is_refused_by_name(rows: Any, labels: Any) -> None:
    together = make_pipeline(FunctionTransformer(shout), OneHotEncoder(handle_unknown="ignore"))
    encode = ColumnTransformer([("joined", together, CATEGORIES[:2]), ("numbers", StandardScaler(), NUMBERS)])
    model = Pipeline([("encode", encode), ("model", LogisticRegression(max_iter=500))]).fit(RAW.frame(rows), labels)
    with pytest.raises(ImportRefused, match=r"the step encode > joined > functiontransformer .* several categories"):
        convert(model, RAW, TARGET, width=WIDTH)


def test_a_number_transformer_without_a_converter_is_refused_by_name(rows: Any, labels: Any) -> None:
    model = preprocessed(LogisticRegression(max_iter=500), numbers=FunctionTransformer(np.cbrt))
    model.fit(RAW.frame(rows), labels)
    with pytest.raises(ImportRefused, match=r"the step encode > numbers \(FunctionTransformer\) does not convert"):
        convert(model, RAW, TARGET, width=WIDTH)


def test_origins_name_columns_and_values() -> None:
    """A team that fitted on the source table's own spelling: `female` 0 and 1 for the contract's two genders."""
    place, feature = next(
        (place, feature)
        for place, feature in enumerate(CONTRACT.features)
        if any(origin.column and origin.values for origin in feature.origins)
    )
    origin = next(origin for origin in feature.origins if origin.column and origin.values)
    signature = [(f.name, "string" if f.is_category else "double") for f in CONTRACT.features]
    signature[place] = (origin.column or "", "long")
    column = match_signature(signature, CONTRACT.features, uri="u").columns[place]
    written = {category: float(text) for text, category in origin.values.items()}
    assert column.values is not None
    assert column.values.tolist() == [written[category] for category in feature.categories]


def test_a_packed_row_and_its_frame_are_the_same_thing(rows: Any) -> None:
    np.testing.assert_array_equal(RAW.packed(RAW.frame(rows), CONTRACT.features), rows)
    broken = RAW.frame(rows[:3])
    broken[CATEGORIES[0]] = "neither"
    with pytest.raises(ImportRefused, match=f"{CATEGORIES[0]} of the input example is 'neither'; the contract allows"):
        RAW.packed(broken, CONTRACT.features)


def test_integers_and_booleans_are_columns_too(rows: Any, labels: Any) -> None:
    binary = next(f for f in CONTRACT.features if set(f.categories) == {"No", "Yes"})
    number = NUMBERS[0]
    kinds = {binary.name: "boolean", number: "long"}
    signature = [(f.name, kinds.get(f.name, "string" if f.is_category else "double")) for f in CONTRACT.features]
    inputs = match_signature(signature[::-1], CONTRACT.features, uri="u")
    frame = inputs.frame(rows)
    assert frame[binary.name].dtype == bool
    assert frame[number].dtype == np.int64
    text = [name for name in CATEGORIES if name != binary.name]
    encode = ColumnTransformer([("text", OneHotEncoder(handle_unknown="ignore"), text)], remainder="passthrough")
    model = Pipeline([("encode", encode), ("model", XGBClassifier(n_estimators=10))]).fit(frame, labels)
    expected = answers_of(model, inputs, TARGET, rows)
    assert compare(convert(model, inputs, TARGET, width=WIDTH).onnx, expected, rows).max_abs_difference < 1e-6


def test_a_broken_graph_never_passes(rows: Any, labels: Any) -> None:
    model = preprocessed(LogisticRegression(max_iter=500)).fit(RAW.frame(rows), labels)
    graph = convert(model, RAW, TARGET, width=WIDTH)
    expected = answers_of(model, RAW, TARGET, rows)
    with pytest.raises(ImportRefused, match="answers 1 columns, the model 2"):
        compare(graph.onnx, np.hstack([expected, expected]), rows)
    other = dataclasses.replace(graph, onnx=graph.onnx)
    with pytest.raises(ImportRefused, match="allowed: 1e-05"):
        compare(other.onnx, expected + 1e-3, rows)
