"""The kinds of models that teams register, fitted on the contract's raw columns; `python tests/support/model_kinds.py`
measures all of them and writes docs/models.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from catboost import CatBoostClassifier, CatBoostRegressor
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler, TargetEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier, XGBRegressor

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import WIDTH
from handoff.conversion.convert import PRECISIONS, Converted, Target, answers_of, convert, convert_last_step
from handoff.conversion.inputs import ModelInput, match_signature
from handoff.conversion.parity import compare, costs_us
from handoff.dataset import read_dataset
from handoff.errors import ImportRefused
from handoff.importing import TARGET

FEATURES = CONTRACT.features

CATEGORIES = [feature.name for feature in FEATURES if feature.is_category]
NUMBERS = [feature.name for feature in FEATURES if not feature.is_category]
RAW = match_signature(
    [(feature.name, "string" if feature.is_category else "double") for feature in FEATURES],
    FEATURES,
    uri="raw",
)
# The same columns, of which every category may be missing.
WITH_MISSING = match_signature(
    [(feature.name, "string" if feature.is_category else "double") for feature in FEATURES],
    [replace(feature, nullable=feature.is_category) for feature in FEATURES],
    uri="missing",
)
ENCODED = match_signature([(feature.name, "float") for feature in FEATURES], FEATURES, uri="encoded")
ONE_HOT = OneHotEncoder(handle_unknown="ignore")
SIZES = (1, 16, 1000)


@dataclass(frozen=True)
class Kind:
    """A kind of model. build: makes it unfitted, with so many trees or iterations. encoded: it takes codes.

    missing: a tenth of each category's cells is missing. target: what it predicts.
    """

    build: Callable[[int], Any]
    encoded: bool = False
    missing: bool = False
    target: Target = TARGET

    @property
    def inputs(self) -> ModelInput:
        return ENCODED if self.encoded else WITH_MISSING if self.missing else RAW


def preprocessed(model: Any, categories: Any = ONE_HOT, numbers: Any = None) -> Pipeline:
    """Return a pipeline as a team writes one: a ColumnTransformer by name, then the model."""
    encode = ColumnTransformer(
        [("categories", categories, CATEGORIES), ("numbers", numbers or StandardScaler(), NUMBERS)]
    )
    return Pipeline([("encode", encode), ("model", model)])


def ordinal(model: Any) -> Pipeline:
    return preprocessed(model, OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), "passthrough")


def imputed(model: Any) -> Pipeline:
    return preprocessed(
        model,
        make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(drop="first")),
        make_pipeline(SimpleImputer(strategy="median"), RobustScaler()),
    )


def logistic(**options: Any) -> LogisticRegression:
    return LogisticRegression(max_iter=500, **options)


def xgboost(trees: int) -> XGBClassifier:
    return XGBClassifier(n_estimators=trees, max_depth=4, learning_rate=0.05, n_jobs=1)


def lightgbm(trees: int, **options: Any) -> LGBMClassifier:
    return LGBMClassifier(n_estimators=trees, verbose=-1, n_jobs=1, **options)


def catboost(trees: int) -> CatBoostClassifier:
    return CatBoostClassifier(iterations=trees, verbose=0, allow_writing_files=False, thread_count=1, random_seed=0)


def histogram(trees: int, **options: Any) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=trees, random_state=0, **options)


KINDS: Mapping[str, Kind] = {
    "LogisticRegression, OneHotEncoder and StandardScaler": Kind(lambda n: preprocessed(logistic())),
    "LogisticRegression, SimpleImputer before both": Kind(lambda n: imputed(logistic())),
    "LogisticRegression, TargetEncoder": Kind(lambda n: preprocessed(logistic(), TargetEncoder(random_state=0))),
    "LogisticRegression, SelectKBest": Kind(
        lambda n: Pipeline([*preprocessed(None).steps[:1], ("select", SelectKBest(k=12)), ("model", logistic())])
    ),
    "LogisticRegression, PCA": Kind(
        lambda n: Pipeline(
            [*preprocessed(None, OneHotEncoder(sparse_output=False)).steps[:1], ("pca", PCA(5)), ("model", logistic())]
        )
    ),
    "SGDClassifier (log loss)": Kind(lambda n: preprocessed(SGDClassifier(loss="log_loss", random_state=0))),
    "DecisionTreeClassifier": Kind(lambda n: ordinal(DecisionTreeClassifier(max_depth=6, random_state=0))),
    "RandomForestClassifier": Kind(lambda n: ordinal(RandomForestClassifier(n, max_depth=8, random_state=0))),
    "ExtraTreesClassifier, one-hot": Kind(lambda n: preprocessed(ExtraTreesClassifier(n, max_depth=8, random_state=0))),
    "GradientBoostingClassifier": Kind(lambda n: ordinal(GradientBoostingClassifier(n_estimators=n, random_state=0))),
    "HistGradientBoostingClassifier": Kind(lambda n: ordinal(histogram(n))),
    "HistGradientBoostingClassifier, categorical features": Kind(
        lambda n: ordinal(histogram(n, categorical_features=list(range(len(CATEGORIES)))))
    ),
    "HistGradientBoostingClassifier on encoded columns": Kind(histogram, encoded=True),
    "XGBClassifier, one-hot": Kind(lambda n: preprocessed(xgboost(n))),
    "XGBClassifier on encoded columns": Kind(xgboost, encoded=True),
    "LightGBM, one-hot": Kind(lambda n: preprocessed(lightgbm(n))),
    "LightGBM, ordinal": Kind(lambda n: ordinal(lightgbm(n))),
    "LightGBM on encoded columns": Kind(lightgbm, encoded=True),
    "CatBoost, ordinal": Kind(lambda n: ordinal(catboost(n))),
    "CatBoost on encoded columns": Kind(catboost, encoded=True),
    "CalibratedClassifierCV (sigmoid) over a logistic pipeline": Kind(
        lambda n: CalibratedClassifierCV(preprocessed(logistic()), cv=3)
    ),
    "CalibratedClassifierCV (isotonic) over a logistic pipeline": Kind(
        lambda n: CalibratedClassifierCV(preprocessed(logistic()), method="isotonic", cv=3)
    ),
    "CalibratedClassifierCV (temperature) over XGBoost": Kind(
        lambda n: CalibratedClassifierCV(preprocessed(xgboost(n // 2)), method="temperature", cv=3)
    ),
    "CalibratedClassifierCV (isotonic) over XGBoost": Kind(
        lambda n: CalibratedClassifierCV(preprocessed(xgboost(n // 2)), method="isotonic", cv=3)
    ),
    "CalibratedClassifierCV (sigmoid) over LinearSVC": Kind(
        lambda n: CalibratedClassifierCV(preprocessed(LinearSVC()), cv=3)
    ),
    "VotingClassifier (soft)": Kind(
        lambda n: VotingClassifier(
            [("linear", preprocessed(logistic())), ("trees", preprocessed(xgboost(n // 2)))],
            voting="soft",
            weights=[1, 2],
        )
    ),
    "StackingClassifier": Kind(
        lambda n: StackingClassifier([("linear", preprocessed(logistic())), ("trees", ordinal(lightgbm(n // 2)))], cv=3)
    ),
    "StackingClassifier as the last step, passthrough": Kind(
        lambda n: preprocessed(
            StackingClassifier([("linear", logistic()), ("trees", lightgbm(n // 2))], cv=3, passthrough=True)
        )
    ),
    "BaggingClassifier": Kind(
        lambda n: preprocessed(BaggingClassifier(DecisionTreeClassifier(max_depth=5), 10, random_state=0))
    ),
    "AdaBoostClassifier": Kind(lambda n: preprocessed(AdaBoostClassifier(n_estimators=10, random_state=0))),
    "GaussianNB": Kind(lambda n: preprocessed(GaussianNB(), OneHotEncoder(sparse_output=False))),
    "MLPClassifier": Kind(lambda n: preprocessed(MLPClassifier((16,), max_iter=30, random_state=0))),
}
VALUE = Target("regression", "value")
REGRESSORS: Mapping[str, Kind] = {
    name: Kind(build, target=VALUE)
    for name, build in {
        "Ridge, OneHotEncoder and StandardScaler": lambda n: preprocessed(Ridge()),
        "RandomForestRegressor": lambda n: ordinal(RandomForestRegressor(n, max_depth=8, random_state=0)),
        "GradientBoostingRegressor": lambda n: ordinal(GradientBoostingRegressor(n_estimators=n, random_state=0)),
        "HistGradientBoostingRegressor": lambda n: ordinal(HistGradientBoostingRegressor(max_iter=n, random_state=0)),
        "XGBRegressor, one-hot": lambda n: preprocessed(XGBRegressor(n_estimators=n, max_depth=4, n_jobs=1)),
        "XGBRegressor, ordinal": lambda n: ordinal(XGBRegressor(n_estimators=n, max_depth=4, n_jobs=1)),
        "LightGBM regressor, ordinal": lambda n: ordinal(LGBMRegressor(n_estimators=n, verbose=-1, n_jobs=1)),
        "CatBoost regressor, ordinal": lambda n: ordinal(
            CatBoostRegressor(iterations=n, verbose=0, allow_writing_files=False, thread_count=1, random_seed=0)
        ),
        "TransformedTargetRegressor (log) over Ridge": lambda n: TransformedTargetRegressor(
            preprocessed(Ridge()), func=np.log1p, inverse_func=np.expm1
        ),
        "VotingRegressor": lambda n: VotingRegressor(
            [("linear", preprocessed(Ridge())), ("trees", ordinal(LGBMRegressor(n_estimators=n, verbose=-1, n_jobs=1)))]
        ),
        "StackingRegressor": lambda n: StackingRegressor(
            [
                ("linear", preprocessed(Ridge())),
                ("trees", ordinal(LGBMRegressor(n_estimators=n, verbose=-1, n_jobs=1))),
            ],
            cv=3,
        ),
    }.items()
}
KNOWS_MISSING = OneHotEncoder(sparse_output=False)
MISSING: Mapping[str, Kind] = {
    name: Kind(build, missing=True)
    for name, build in {
        "LogisticRegression, SimpleImputer (most frequent)": lambda n: imputed(logistic()),
        "LogisticRegression, SimpleImputer (a constant)": lambda n: preprocessed(
            logistic(), make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), ONE_HOT)
        ),
        "LogisticRegression, OneHotEncoder that knows missing": lambda n: preprocessed(logistic(), KNOWS_MISSING),
        "XGBClassifier, one-hot": lambda n: preprocessed(xgboost(n), KNOWS_MISSING),
        "LightGBM, ordinal, missing as NaN": lambda n: ordinal(lightgbm(n)),
        "HistGradientBoostingClassifier, ordinal, missing as NaN": lambda n: ordinal(histogram(n)),
        "CatBoost, ordinal, missing as -1": lambda n: preprocessed(
            catboost(n), OrdinalEncoder(encoded_missing_value=-1), "passthrough"
        ),
    }.items()
}
# Kinds that no float32 arithmetic reproduces, and why.
REFUSED: Mapping[str, str] = {
    "CalibratedClassifierCV (isotonic) over XGBoost": "steep steps of the isotonic curve enlarge the rounding of "
    "XGBoost's float32 sums; method='sigmoid' converts",
}


def fit(kind: Kind, trees: int, rows: np.ndarray, labels: np.ndarray) -> Any:
    data = kind.inputs.frame(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kind.build(trees).fit(data, labels)


def converted(kind: Kind, model: Any, rows: np.ndarray) -> tuple[Converted, float]:
    """Return the graph and the greatest difference from the model. Raises ImportRefused, as the import does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = answers_of(model, kind.inputs, kind.target, rows)
    for precision in PRECISIONS:
        graph = convert(model, kind.inputs, kind.target, width=WIDTH, precision=precision)
        is_regression = kind.target.kind == "regression"
        try:
            return graph, compare(graph.onnx, expected, rows, relative=is_regression).max_abs_difference
        except ImportRefused:
            if not graph.has_spliced_parts or precision == PRECISIONS[-1]:
                raise
    raise AssertionError


def measured(kinds: Mapping[str, Kind], trees: int, rows: np.ndarray, labels: np.ndarray) -> str:
    """Return the lines of a table, one for each kind."""
    lines = []
    for name, kind in kinds.items():
        model = fit(kind, trees, rows, labels)
        try:
            graph, difference = converted(kind, model, rows)
        except ImportRefused as error:
            why = REFUSED.get(name, str(error))
            lines.append(f"| {name} | refused: {why} | | | | | |")
            print(lines[-1], flush=True)
            continue
        costs = costs_us({"served": graph.onnx}, rows, SIZES)["served"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            last = convert_last_step(model, kind.inputs, rows)
        encoded = "" if last is None else f"{costs_us({'last': last[0]}, last[1], (1,))['last'][1]:.0f}"
        lines.append(
            f"| {name} | yes | {difference:.1e} | {costs[1]:.0f} | {encoded} | {costs[16]:.0f} | {costs[1000]:,.0f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--only", choices=[*SECTIONS], help="write this section alone")
    options = parser.parse_args()
    dataset = read_dataset()
    random = np.random.default_rng(0)
    rows, labels = dataset.rows, dataset.labels
    numbers = rows[:, [place for place, feature in enumerate(FEATURES) if not feature.is_category]].astype(np.float64)
    # A value that the features decide in part, and that has a positive logarithm.
    value = numbers @ (10 / numbers.std(axis=0)) + 20 * labels + random.gamma(2, 5, size=len(rows))
    with_missing = rows.copy()
    for place, feature in enumerate(FEATURES):
        if feature.is_category:
            with_missing[random.random(len(rows)) < 0.1, place] = len(feature.categories)
    data = {CLASSIFIERS: (KINDS, rows, labels), REGRESSION: (REGRESSORS, rows, value)}
    data[MISSING_CATEGORIES] = (MISSING, with_missing, labels)
    text = options.output.read_text()
    for name, template in SECTIONS.items():
        if options.only in (None, name):
            kinds, given, truth = data[name]
            table = measured(kinds, options.trees, given, truth)
            text = with_section(text, name, template.format(table=table, rows=len(rows), trees=options.trees))
    options.output.write_text(text)


def with_section(text: str, name: str, section: str) -> str:
    """Return the page with one section in place of the old one; sections that are written by hand stay."""
    parts = text.split("\n## ")
    place = 0 if name == CLASSIFIERS else next((n for n, part in enumerate(parts) if part.startswith(name)), None)
    if place is None:
        parts.insert(list(SECTIONS).index(name), section)
    else:
        parts[place] = section
    return "\n## ".join(parts)


CLASSIFIERS, REGRESSION, MISSING_CATEGORIES = "Classifiers", "Regressors", "Missing categories"
PAGE = """# Which models can be imported

`churn-serving import` takes a registered model as the team fitted it, on the contract's raw columns or on encoded
ones, and writes one ONNX graph over the packed feature row. Encoders over categories become tables by code, or vanish
in the splits of the trees; no text is left at run time. What does not convert is refused with the name of the step.

Generated by `python tests/support/model_kinds.py` on {rows:,} rows of the reference table, {trees} trees where there
are trees. Difference: the greatest between the graph and the model's own `predict_proba` on any row (allowed: 1e-5).
Cost: microseconds of one call on one thread (median), for one row, 16 rows and 1,000 rows, on two cores that were busy
with other work: compare the rows with each other. "Last step" is the model alone on rows that are encoded already.

| Model | Imports | Difference | One row | Last step, one row | 16 rows | 1,000 rows |
|---|---|---|---|---|---|---|
{table}

The models inside GridSearchCV, FrozenEstimator and TunedThresholdClassifierCV import as they do alone. Not converted:
hard voting, categories inside XGBoost (`enable_categorical`) and CatBoost (`cat_features`),
support vector machines under a calibrator, transformers that mix several text columns.
"""
TABLE = """| Model | Imports | Difference | One row | Last step, one row | 16 rows | 1,000 rows |
|---|---|---|---|---|---|---|
{table}
"""
SECTIONS: Mapping[str, str] = {
    CLASSIFIERS: PAGE,
    REGRESSION: f"""{REGRESSION}

A drawn value on the same rows. The difference is a fraction of the value (or of the standard deviation of all values,
where that is greater): 1e-5 of a price of 200,000 is less than float32 tells apart.

{TABLE}""",
    MISSING_CATEGORIES: f"""{MISSING_CATEGORIES}

The classifiers again, with a tenth of each category's cells missing (`Literal[...] | None` in the contract).

{TABLE}""",
}


if __name__ == "__main__":
    main()
