"""Matches a table's columns to the contract's features, and encodes Arrow columns: features, customer ids, labels.

Names are compared in snake_case, so that `StreamingTV`, `streaming_tv` and `customerID` are found without being listed.
The encoding functions take a whole column of a chunk, and raise InvalidValue for the first value that is not allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from custom_runtime.contract import FEATURES, KEY, LABEL, LABEL_NEGATIVE, LABEL_POSITIVE
from custom_runtime.errors import InvalidInput
from custom_runtime.model.encoding import encode_column
from custom_runtime.schema import KEY_MAXIMUM, Feature
from handoff.errors import DataError

# "StreamingTV" -> streaming|TV, "customerID" -> customer|ID, "HTTPPort" -> HTTP|Port
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[\s\-./_]+")
LABELS = {LABEL_POSITIVE: 1, LABEL_NEGATIVE: 0, "1": 1, "0": 0, "true": 1, "false": 0}


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """The column of one feature in a table.

    name: the column's name. values: the column's values -> the feature's categories, where they differ. missing: the
    value of a blank cell (None: a blank cell is an error).
    """

    feature: Feature
    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    missing: float | str | None = None


@dataclass(frozen=True, slots=True)
class TableColumns:
    """The columns of one table that are read; `key` and `label` are None where the table has none."""

    features: tuple[FeatureColumn, ...]
    key: str | None
    label: str | None

    @property
    def names(self) -> list[str]:
        """Every column that is read, each once."""
        names = [column.name for column in self.features] + [self.key, self.label]
        return list(dict.fromkeys(name for name in names if name is not None))


def snake_case(name: str) -> str:
    """Return a column name as the contract spells names: StreamingTV -> streaming_tv."""
    return _SEPARATORS.sub("_", _WORD_STARTS.sub("_", name.strip())).strip("_").lower()


def match_columns(names: Sequence[str], *, source: str) -> TableColumns:
    """Find every feature among a table's column names.

    Raises DataError when a feature has no column, or two columns carry the same name.
    """
    by_name: dict[str, str] = {}
    for name in names:
        other = by_name.setdefault(snake_case(name), name)
        if other is not name:
            raise DataError(f"{source}: columns {other!r} and {name!r} have the same name; rename or drop one")
    found = [_find(feature, by_name) for feature in FEATURES]
    missing = [_accepted_names(feature) for feature, column in zip(FEATURES, found, strict=True) if column is None]
    if missing:
        raise DataError(f"{source}: columns missing: {', '.join(missing)}; present: {', '.join(names) or 'none'}")
    features = tuple(column for column in found if column is not None)
    return TableColumns(features, by_name.get(snake_case(KEY)), by_name.get(snake_case(LABEL)))


def _find(feature: Feature, by_name: Mapping[str, str]) -> FeatureColumn | None:
    for wanted in _names_of(feature):
        if snake_case(wanted) not in by_name:
            continue
        # An origin without a column applies to the values of any accepted column.
        origins = [origin for origin in feature.origins if origin.column in (None, wanted)]
        values = {written: category for origin in origins for written, category in origin.values.items()}
        missing = next((origin.missing for origin in origins if origin.missing is not None), None)
        return FeatureColumn(feature, by_name[snake_case(wanted)], values, missing)
    return None


def _names_of(feature: Feature) -> list[str]:
    return [feature.name, *(origin.column for origin in feature.origins if origin.column)]


def _accepted_names(feature: Feature) -> str:
    return " or ".join(_names_of(feature))


class InvalidValue(ValueError):
    """The value at `row` of a column is not allowed; `allowed` describes the allowed values."""

    def __init__(self, row: int, allowed: str) -> None:
        super().__init__(f"row {row}; allowed: {allowed}")
        self.row = row
        self.allowed = allowed


def feature_values(values: Any, column: FeatureColumn) -> NDArray[np.float32]:
    """Encode one feature of n customers -> float32 [n]."""
    return _categories(values, column) if column.feature.is_category else _numbers(values, column)


def customer_ids(values: Any) -> NDArray[np.int64]:
    """Read ids written as integers, as text or as whole floats -> int64 [n]."""
    text = as_text(values)
    allowed = pc.match_substring_regex(text, r"^[0-9]{1,19}(\.0*)?$").to_numpy(zero_copy_only=False)
    if allowed.all():
        # float64 would round above 2**53, so the text is read as an integer.
        numbers = pc.cast(pc.replace_substring_regex(text, r"\.0*$", ""), pa.uint64()).to_numpy()
        allowed = numbers <= KEY_MAXIMUM
        if allowed.all():
            return np.asarray(numbers, dtype=np.int64)
    raise InvalidValue(int(np.argmin(allowed)), f"an integer from 0 to {KEY_MAXIMUM}")


def labels(values: Any) -> NDArray[np.int8]:
    """Read labels -> int8 [n]: 1 is the contract's positive label."""
    encoded = as_text(values).dictionary_encode()
    written = encoded.dictionary.to_pylist()
    positions = encoded.indices.to_numpy(zero_copy_only=False)
    unknown = [position for position, text in enumerate(written) if text not in LABELS]
    if unknown:
        raise InvalidValue(_first_row_of(unknown, positions), f"{LABEL_NEGATIVE!r} or {LABEL_POSITIVE!r}, or 0 and 1")
    codes: NDArray[np.int8] = np.array([LABELS[text] for text in written], dtype=np.int8)[positions]
    return codes


def as_text(values: Any) -> Any:
    """Return a column as trimmed text without nulls: a null becomes the empty string."""
    text = values if pa.types.is_string(values.type) else pc.cast(values, pa.string())
    return pc.utf8_trim_whitespace(pc.fill_null(text, ""))


def is_number(text: str) -> bool:
    """Whether text reads as a number (nan and inf included)."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _categories(values: Any, column: FeatureColumn) -> NDArray[np.float32]:
    # A chunk has few different values: each is mapped once, whatever the number of rows.
    encoded = as_text(values).dictionary_encode()
    written = [text or str(column.missing or "") for text in encoded.dictionary.to_pylist()]
    known = column.feature.categories
    categories = [text if text in known else column.values.get(text, text) for text in written]
    positions = encoded.indices.to_numpy(zero_copy_only=False)
    try:
        codes: NDArray[np.float32] = encode_column(column.feature, categories)[positions]
    except InvalidInput:
        unknown = [position for position, category in enumerate(categories) if category not in known]
        raise InvalidValue(_first_row_of(unknown, positions), _allowed(column)) from None
    return codes


def _numbers(values: Any, column: FeatureColumn) -> NDArray[np.float32]:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        values = _parsed(as_text(values), column)
    numbers = np.array(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    if column.missing is not None:
        # pandas writes a blank cell as NaN, so both are treated alike.
        numbers[np.isnan(numbers)] = float(column.missing)
    try:
        return encode_column(column.feature, numbers)
    except InvalidInput:
        raise InvalidValue(_first_not_encoded(column.feature, numbers), _allowed(column)) from None


def _parsed(text: Any, column: FeatureColumn) -> Any:
    numbers = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    try:
        return pc.cast(numbers, pa.float64())
    except pa.ArrowInvalid:
        row = next(row for row, value in enumerate(text.to_pylist()) if value and not is_number(value))
        raise InvalidValue(row, _allowed(column)) from None


def _first_not_encoded(feature: Feature, numbers: Sequence[Any] | NDArray[Any]) -> int:
    for row, number in enumerate(numbers):
        try:
            encode_column(feature, [number])
        except InvalidInput:
            return row
    raise AssertionError(f"{feature.name}: refused as a column, allowed value by value")


def _first_row_of(codes: list[int], positions: NDArray[Any]) -> int:
    return int(np.argmax(np.isin(positions, codes)))


def _allowed(column: FeatureColumn) -> str:
    blank = "" if column.missing is None else f", or blank for {column.missing!r}"
    return column.feature.allowed + "".join(f", {written!r}" for written in column.values) + blank
