"""The import: a registered model version -> a checked, converted and compared bundle on disk.

The signature is checked before the model is loaded, because loading may run code from the model's files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from xgboost import XGBClassifier, XGBRegressor

from custom_runtime.active import CONTRACT
from custom_runtime.model.bundle import Bundle, Parity, write_bundle
from custom_runtime.model.encoding import WIDTH, Matrix
from custom_runtime.model.forest import BitForest, ForestScorer
from custom_runtime.schema import Value
from handoff.conversion.bits import MOST_BYTES, bit_forest
from handoff.conversion.columns import Floats
from handoff.conversion.convert import (
    PRECISIONS,
    Converted,
    answers_of,
    class_order,
    convert,
    convert_last_step,
    target_of,
)
from handoff.conversion.explaining import explanation_files
from handoff.conversion.inputs import ModelInput, match_signature
from handoff.conversion.parity import compare, costs_us
from handoff.dataset import iter_chunks
from handoff.errors import ImportRefused
from handoff.quality.drift import ROLE, TrainingProfile, build_profile
from handoff.registered import ModelVersion, RegisteredModel
from handoff.training import defaults_of

FEATURES = CONTRACT.features
TARGET = target_of(CONTRACT)
IS_NULLABLE = any(feature.nullable and not feature.is_category for feature in FEATURES)  # NaN in the packed row
# A logged input example is a handful of rows; rows drawn from the contract's values fill up to this many.
FEWEST_ROWS = 1024
NULL_SHARE = 0.05  # of the drawn values of a nullable feature
USUAL_BATCH = 16
COST_ROWS = (1, USUAL_BATCH)


class ModelSource(Protocol):
    """Where registered models come from: the registry."""

    def resolve(self, uri: str) -> ModelVersion:
        """Return the version that a URI names."""

    def download(self, version: ModelVersion) -> RegisteredModel:
        """Return what is registered as a version; the model itself is loaded when it is asked for."""


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A registered model that fits the contract, and its ONNX form that agrees with it on the reference rows.

    forest: the same as bit vectors, None where it is no sum of trees or ONNX Runtime scores it faster.
    costs_us: "served"; with a forest "onnx"; where the model is a pipeline "encoded" (its last step alone in ONNX, on
    rows that are encoded already) -> rows in a batch -> microseconds. explanation: role in the bundle -> bytes.
    profile: of the reference rows, which drift is measured against.
    """

    registered: RegisteredModel
    model: Any
    inputs: ModelInput
    onnx: bytes
    forest: BitForest | None
    parity: Parity
    defaults: dict[str, Value]
    costs_us: Mapping[str, Mapping[int, float]]
    explanation: Mapping[str, bytes]
    profile: TrainingProfile

    def write(self, directory: Path) -> Bundle:
        """Write the bundle atomically: what scores, what explains, XGBoost's own file where it takes the packed row."""
        version = self.registered.version
        contents = {"onnx": self.onnx, **self.explanation, ROLE: self.profile.model_dump_json().encode()}
        if self.forest is not None:
            contents["forest"] = self.forest.dump()
        if _is_xgboost(self.model) and self.inputs.is_packed_row(FEATURES):
            contents.setdefault("xgboost", bytes(self.model.get_booster().save_raw("ubj")))
        return write_bundle(
            directory,
            contents,
            name=version.name,
            version=version.version,
            run_id=version.run_id,
            source=version.uri,
            flavor=self.registered.flavor,
            defaults=self.defaults,
            parity=self.parity,
        )


def _is_xgboost(model: Any) -> bool:
    """Whether XGBoost itself answers as the contract does: its classes, where it has some, in the same order."""
    if isinstance(model, XGBRegressor):
        return TARGET.kind == "regression"
    return isinstance(model, XGBClassifier) and class_order(model, TARGET) == list(range(len(TARGET.classes)))


def check_model(
    source: ModelSource, uri: str, *, reference: Path | None = None, fallback: Callable[[], Matrix] | None = None
) -> CheckedModel:
    """Resolve, download, check, convert and compare; writes nothing.

    reference: a CSV or Parquet file to compare on, in place of the rows that were logged with the run.
    fallback: reads the rows to compare on where the run has none; without, the model's input example and rows like it.
    Raises RegistryError or ImportRefused (or DataError, for the reference file).
    """
    registered = source.download(source.resolve(uri))
    inputs = check_signature(registered)
    given = _given_rows(registered, reference, fallback)
    example = _example_rows(registered, inputs) if given is None else given
    rows = _drawn(example) if given is None else given  # drawn rows have no say in the defaults
    model = registered.load()
    answers = answers_of(model, inputs, TARGET, rows)
    converted, parity = _convert(model, inputs, rows, answers)
    forest, parity, costs = _faster(converted.onnx, parity, rows, answers)
    last = convert_last_step(model, inputs, rows)
    if last is not None:
        costs |= costs_us({"encoded": last[0]}, last[1], COST_ROWS)
    defaults = dict(registered.defaults or _defaults(example))
    profile = build_profile(CONTRACT.fingerprint, FEATURES, rows, answers, task=CONTRACT.task)
    explanation = explanation_files(model, inputs, TARGET, rows)
    return CheckedModel(
        registered, model, inputs, converted.onnx, forest, parity, defaults, costs, explanation, profile
    )


def check_signature(registered: RegisteredModel) -> ModelInput:
    """Return what the model takes. Raises ImportRefused, naming each column that differs."""
    uri = registered.version.uri
    if registered.signature is None:
        raise ImportRefused(
            f"{uri} was registered without a signature; log it with one: log_model(..., input_example=X.head())"
        )
    inputs = match_signature(registered.signature, FEATURES, uri=uri)
    # The signature knows nothing of units and categories, the fingerprint does. A foreign model may have none.
    if registered.contract_fingerprint not in (None, CONTRACT.fingerprint):
        raise ImportRefused(
            f"{uri} was trained for contract {registered.contract_fingerprint}, this is {CONTRACT.fingerprint}: "
            "units or categories have changed; train again: churn-serving train"
        )
    return inputs


def _convert(model: Any, inputs: ModelInput, rows: Matrix, expected: Floats) -> tuple[Converted, Parity]:
    """Convert, and compare; what other converters wrote is tried in float64 too when float32 is not exact enough."""
    for precision in PRECISIONS:
        converted = convert(model, inputs, TARGET, width=WIDTH, precision=precision, nullable=IS_NULLABLE)
        try:
            return converted, compare(converted.onnx, expected, rows, relative=TARGET.kind == "regression")
        except ImportRefused:
            if not converted.has_spliced_parts or precision == PRECISIONS[-1]:
                raise
    raise AssertionError("unreachable: the last precision returns or raises")


def _faster(
    onnx: bytes, parity: Parity, rows: Matrix, expected: Floats
) -> tuple[BitForest | None, Parity, dict[str, dict[int, float]]]:
    """Return the graph's trees as bit vectors where a usual batch is scored faster so, the parity of all, the costs."""
    forest = bit_forest(onnx)
    if forest is None or ForestScorer(forest, WIDTH).size_bytes > MOST_BYTES:
        return None, parity, costs_us({"served": onnx}, rows, COST_ROWS)
    costs = costs_us({"served": forest, "onnx": onnx}, rows, COST_ROWS)
    if costs["served"][USUAL_BATCH] > costs["onnx"][USUAL_BATCH]:
        return None, parity, {"served": costs["onnx"]}
    own = compare(forest, expected, rows, relative=parity.relative)
    return forest, max(parity, own, key=lambda one: one.max_abs_difference), costs


def _given_rows(
    registered: RegisteredModel, reference: Path | None, fallback: Callable[[], Matrix] | None
) -> Matrix | None:
    """Return rows that somebody gave: a file, the run's own, the fallback's; None where there are none."""
    if reference is not None:
        return np.concatenate([rows for _, rows in iter_chunks(reference)])
    if registered.reference is not None:
        return registered.reference.rows
    return None if fallback is None else fallback()


def _example_rows(registered: RegisteredModel, inputs: ModelInput) -> Matrix:
    """Return the model's input example as packed rows, [0, WIDTH] where it has none."""
    example = registered.load_example()
    if example is None or not len(example):
        return np.empty((0, WIDTH), dtype=np.float32)
    return inputs.packed(example, FEATURES)


def _defaults(rows: Matrix) -> Mapping[str, Value]:
    """Return the rows' medians and modes; of no rows, the contract's examples."""
    return defaults_of(rows) if len(rows) else {feature.name: feature.example for feature in FEATURES}


def _drawn(rows: Matrix) -> Matrix:
    """Return an example's rows and others like them: every category, numbers between the least and the greatest.

    Without an example, numbers are drawn from the whole range that the contract allows.
    """
    random = np.random.default_rng(0)
    count = max(0, FEWEST_ROWS - len(rows))
    drawn = np.empty((count, rows.shape[1]), dtype=np.float32)
    for place, feature in enumerate(FEATURES):
        if feature.is_category:
            drawn[:, place] = random.integers(len(feature.codes), size=count)
        else:
            column = rows[:, place][~np.isnan(rows[:, place])]
            low, high = (column.min(), column.max()) if len(column) else (feature.minimum, feature.maximum)
            if low == high:
                low, high = feature.minimum, feature.maximum
            values = random.uniform(low, high, size=count)
            drawn[:, place] = np.round(values, 2 if feature.kind == "number" else 0)
            if feature.nullable:
                drawn[random.random(count) < NULL_SHARE, place] = np.nan
    return np.concatenate([rows, drawn])
