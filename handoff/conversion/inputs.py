"""The input of a registered model, and how its columns follow from the packed feature row.

The model's signature names its columns. Each is a feature of the contract, by its own name or by a name of one of its
origins, in any order: a number as itself, a category as text, as its code, or as an origin writes it (0 and 1 for
No and Yes). A category that may be missing is NaN among text, or None where the model was fitted on None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from custom_runtime.model.matrix import shortest_decimals
from custom_runtime.schema import Feature
from handoff.columns import snake_case
from handoff.conversion.columns import Category, Column, Number
from handoff.errors import ImportRefused

# MLflow's names of column types -> what the frame holds.
NUMBERS: Mapping[str, str] = {"float": "float32", "double": "float64", "integer": "int32", "long": "int64"}
TEXT = "string"
BOOLEAN = "boolean"
BOOLEANS = {"no": False, "yes": True, "false": False, "true": True, "0": False, "1": True}

# A missing category among text, as pandas reads a blank cell.
MISSING = float("nan")

Signature = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One column of the model's own input.

    name and kind: as the signature has them (MLflow's type). source: the feature's place in the packed row.
    values: the column's content for each code of a category, None for a number.
    """

    name: str
    kind: str
    source: int
    values: NDArray[Any] | None

    def of(self, packed: NDArray[np.float32]) -> NDArray[Any]:
        """Return the column for packed features [n], as the model was fitted on it."""
        if self.values is not None:
            return np.asarray(self.values[packed.astype(np.int64)])
        dtype = NUMBERS.get(self.kind, "float64")
        if dtype == "float32":
            return packed
        if self.kind == BOOLEAN:
            return np.not_equal(packed, 0)
        values = shortest_decimals(packed)
        return values if dtype == "float64" else values.astype(dtype)

    def with_none(self) -> InputColumn:
        """Return the column with None in place of NaN among text."""
        if self.values is None or self.kind != TEXT:
            return self
        return replace(self, values=np.array([None if pd.isna(value) else value for value in self.values], object))

    @property
    def traced(self) -> Column:
        """The column as a function of the packed row."""
        if self.values is not None:
            return Category(self.source, self.values)
        return Number(self.source, decimal=self.kind != "float")


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The columns of a registered model, in the order of its signature."""

    columns: tuple[InputColumn, ...]

    def is_packed_row(self, features: Sequence[Feature]) -> bool:
        """Whether the model takes the packed row as it is: every feature in order, categories as codes."""
        return [column.source for column in self.columns] == list(range(len(features))) and all(
            column.values is None or np.array_equal(column.values, np.arange(len(column.values)))
            for column in self.columns
        )

    def packed(self, frame: pd.DataFrame, features: Sequence[Feature]) -> NDArray[np.float32]:
        """Return packed rows for a frame as the model takes it. Raises ImportRefused for a value of no category."""
        rows = np.empty((len(frame), len(features)), dtype=np.float32)
        for column in self.columns:
            given = frame[column.name]
            if column.values is None:
                rows[:, column.source] = pd.to_numeric(given).to_numpy(dtype=np.float64)
                continue
            codes = {_key(value): code for code, value in enumerate(column.values.tolist())}
            try:
                rows[:, column.source] = [codes[_key(value)] for value in given.tolist()]
            except KeyError as error:
                raise ImportRefused(
                    f"{column.name} of the input example is {error.args[0]!r}; the contract allows "
                    f"{', '.join(map(repr, codes))}"
                ) from error
        return rows

    @property
    def is_encoded(self) -> bool:
        """Whether every category comes as its code: the model was fitted on this project's encoding."""
        return not any(column.values is not None and column.kind == TEXT for column in self.columns)

    def fitted_on(self, model: Any) -> ModelInput:
        """Return the columns as the model was fitted on them: with None for a missing category where it saw None."""
        if not has_seen_none(model):
            return self
        return ModelInput(tuple(column.with_none() for column in self.columns))

    def frame(self, rows: NDArray[np.float32]) -> pd.DataFrame:
        """Return what the model itself is called with, for packed rows float32 [n, WIDTH]."""
        return pd.DataFrame({column.name: as_series(column.of(rows[:, column.source])) for column in self.columns})

    def for_model(self, model: Any, rows: NDArray[np.float32]) -> Any:
        """Return a frame, or an array when the model was fitted without names."""
        frame = self.fitted_on(model).frame(rows)
        names = fitted_names(model)
        if names is not None and set(names) <= set(frame.columns):
            return frame[names]
        if all(column.kind == "float" for column in self.columns) or self.is_encoded:
            return frame.to_numpy(dtype=np.float64 if "double" in {c.kind for c in self.columns} else np.float32)
        return frame

    def traced(self, model: Any) -> list[Column]:
        """Return the columns in the order in which the model was fitted."""
        by_name = {column.name: column.traced for column in self.fitted_on(model).columns}
        names = fitted_names(model)
        if names is not None and set(names) <= by_name.keys():
            return [by_name[name] for name in names]
        return list(by_name.values())


def fitted_names(model: Any) -> list[str] | None:
    """Return the names of the columns that a model was fitted on, None where it had none."""
    for attribute in ("feature_names_in_", "feature_names_", "feature_name_"):
        try:
            names = getattr(model, attribute, None)
        except Exception:  # noqa: S112 (a property of a library that computes it, and may not be able to)
            continue
        if names is not None:
            return [str(name) for name in names]
    return None


def as_series(values: NDArray[Any]) -> Any:
    """Return a column of a frame; pandas would read text with None as its own type of text, where None is NaN."""
    return pd.Series(values, dtype=object) if values.dtype == object and None in values.tolist() else values


def has_seen_none(model: Any) -> bool:
    """Whether an encoder or imputer inside a fitted model takes None for a missing category, and not NaN."""
    if any(value is None for known in getattr(model, "categories_", None) or () for value in known):
        return True
    if type(model).__name__ == "SimpleImputer" and model.missing_values is None:
        return True
    return any(has_seen_none(part) for part in _parts_of(model))


def _parts_of(model: Any) -> Iterator[Any]:
    """Yield the fitted steps, transformers and estimators directly inside a model."""
    for _, part in getattr(model, "steps", None) or getattr(model, "transformer_list", None) or ():
        yield part
    for _, part, _ in getattr(model, "transformers_", None) or ():
        yield part
    for attribute in ("best_estimator_", "estimator_", "regressor_", "estimator"):
        yield from [part] if (part := getattr(model, attribute, None)) is not None else []
    for attribute in ("estimators_", "calibrated_classifiers_"):
        listed = getattr(model, attribute, None)
        yield from listed if isinstance(listed, list) else ()


def _key(value: Any) -> Any:
    """Return what stands for a cell's value in a dictionary: every missing value is the same."""
    return None if pd.isna(value) else value


def match_signature(signature: Signature, features: Sequence[Feature], *, uri: str) -> ModelInput:
    """Find the feature behind each column. Raises ImportRefused naming every column that differs."""
    by_name: dict[str, tuple[int, Feature]] = {}
    for place, feature in reversed(list(enumerate(features))):
        for name in (*(origin.column for origin in feature.origins if origin.column), feature.name):
            by_name[snake_case(name)] = (place, feature)
    # The contract's own columns in its order, all of them floats: rows that this project encoded.
    is_encoded = [name for name, _ in signature] == [feature.name for feature in features] and all(
        kind in ("float", "double") for _, kind in signature
    )
    problems: list[str] = []
    unknown: list[str] = []
    columns: list[InputColumn] = []
    for name, kind in signature:
        found = by_name.get(snake_case(name))
        if found is None:
            unknown.append(name)
            continue
        try:
            columns.append(_match(name, kind, *found, is_encoded=is_encoded))
        except ValueError as error:
            problems.append(str(error))
    if unknown:
        which = f"{unknown[0]} is no feature" if len(unknown) == 1 else f"{', '.join(unknown)} are no features"
        other = "" if columns else "; is it a model of another contract (SERVING_CONTRACT)?"
        problems.insert(0, f"{which} of the contract{other}")
    given = {column.source for column in columns}
    if not problems:
        problems += [f"{feature.name} is missing" for place, feature in enumerate(features) if place not in given]
        doubled = sorted({features[c.source].name for c in columns if [d.source for d in columns].count(c.source) > 1})
        problems += [f"{name} stands there twice" for name in doubled]
    if problems:
        raise ImportRefused(
            f"the signature of {uri} is not the contract's: {'; '.join(problems)}; allowed, in any order: a column of "
            f"{', '.join(feature.name for feature in features)}"
        )
    return ModelInput(tuple(columns))


def _match(name: str, kind: str, source: int, feature: Feature, *, is_encoded: bool) -> InputColumn:
    if not feature.is_category:
        if kind not in NUMBERS and kind != BOOLEAN:
            raise ValueError(f"{name} is {kind}, wanted: {', '.join(NUMBERS)}")
        return InputColumn(name, kind, source, None)
    written = None if is_encoded else _written(name, feature, is_text=kind == TEXT)
    missing = [MISSING] if feature.nullable else []
    if kind == TEXT:
        return InputColumn(name, kind, source, np.array([*(written or feature.categories), *missing], dtype=object))
    if kind == BOOLEAN:
        meanings = [BOOLEANS.get(text.lower()) for text in feature.categories]
        if written is not None:
            meanings = [BOOLEANS.get(text.lower()) for text in written]
        if None in meanings:
            raise ValueError(f"{name} is boolean, wanted: string, for {', '.join(map(repr, feature.categories))}")
        if missing:
            raise ValueError(f"{name} is boolean, which cannot be missing as the contract allows; wanted: string")
        return InputColumn(name, kind, source, np.array(meanings, dtype=bool))
    if kind not in NUMBERS:
        raise ValueError(f"{name} is {kind}, wanted: string, or the code as {', '.join(NUMBERS)}")
    codes = np.arange(len(feature.codes))
    if written is not None and all(_is_number(text) for text in written):
        codes = np.array([*(float(text) for text in written), *missing])
        if missing and kind not in ("float", "double"):
            raise ValueError(f"{name} is {kind}, which cannot be missing as the contract allows; wanted: double")
    return InputColumn(name, kind, source, codes.astype(NUMBERS[kind]))


def _written(name: str, feature: Feature, *, is_text: bool) -> list[str] | None:
    """Return how an origin under this name writes the categories, in code order; None when it writes them as they are.

    An origin without a column of its own is about numbers and booleans under the feature's name: text is the category.
    """
    for origin in feature.origins:
        meaning = {category: text for text, category in origin.values.items()}
        is_meant = not is_text if origin.column is None else snake_case(origin.column) == snake_case(name)
        if is_meant and meaning.keys() >= set(feature.categories):
            return [meaning[category] for category in feature.categories]
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
