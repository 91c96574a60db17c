"""Matches a table's columns to the contract's features, and encodes Arrow columns: features, keys, labels.

Names are compared in snake_case, so that `UnitPrice`, `unit_price` and `unitPrice` are found without being listed.
The encoding functions take a whole column of a chunk, and raise InvalidValue for the first value that is not allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput
from custom_runtime.model.encoding import encode_column
from custom_runtime.schema import Feature, Key, Task
from handoff.errors import DataError

# "UnitPrice" -> Unit|Price, "HTTPPort" -> HTTP|Port, "rowID" -> row|ID
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[\s\-./_]+")
FEATURES = CONTRACT.features


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """The column of one feature in a table.

    name: the column's name. values: the column's values -> the feature's categories, where they differ. missing: the
    value of a blank cell (None: a blank cell is a missing value of a nullable feature, else an error).
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
    """Return a column name as the contract spells names: UnitPrice -> unit_price."""
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
    key = None if CONTRACT.key is None else by_name.get(snake_case(CONTRACT.key))
    return TableColumns(features, key, by_name.get(snake_case(CONTRACT.label)))


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
    """Encode one feature of n rows -> float32 [n]."""
    return _categories(values, column) if column.feature.is_category else _numbers(values, column)


def keys(values: Any, key: Key) -> NDArray[Any]:
    """Read keys: text as it is -> object [n]; integers, also written as text or as whole floats -> int64 [n]."""
    text = as_text(values)
    if key.is_text:
        found = text.to_pylist()
        refused = next((row for row, value in enumerate(found) if not key.accepts(value)), None)
        if refused is not None:
            raise InvalidValue(refused, key.allowed)
        return np.array(found, dtype=object)
    # 19 digits may be more than int64 holds; uint64 reads all of them.
    allowed = pc.match_substring_regex(text, r"^([0-9]{1,19}|-[0-9]{1,18})(\.0*)?$").to_numpy(zero_copy_only=False)
    if allowed.all():
        # float64 would round above 2**53, so the text is read as an integer.
        digits = pc.replace_substring_regex(text, r"\.0*$", "")
        is_signed = pc.any(pc.starts_with(digits, "-")).as_py()
        numbers = pc.cast(digits, pa.int64() if is_signed else pa.uint64()).to_numpy()
        allowed = (numbers <= key.maximum) & (numbers >= key.minimum)
        if allowed.all():
            return np.asarray(numbers, dtype=np.int64)
    raise InvalidValue(int(np.argmin(allowed)), key.allowed)


def labels(values: Any) -> NDArray[Any]:
    """Read labels -> int8 [n], the class's place in the contract's task, or float64 [n], the value of a regression."""
    task = CONTRACT.task
    if task.kind == "regression":
        return _label_values(values)
    encoded = as_text(values).dictionary_encode()
    written = encoded.dictionary.to_pylist()
    positions = encoded.indices.to_numpy(zero_copy_only=False)
    places = [task.place_of(text) for text in written]
    if None in places:
        unknown = [position for position, place in enumerate(places) if place is None]
        raise InvalidValue(_first_row_of(unknown, positions), _allowed_labels(task))
    codes: NDArray[np.int8] = np.array(places, dtype=np.int8)[positions]
    return codes


def _label_values(values: Any) -> NDArray[np.float64]:
    found = [float(text) if is_number(text) else math.nan for text in as_text(values).to_pylist()]
    numbers = np.array(found, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InvalidValue(int(np.argmin(np.isfinite(numbers))), "a finite number")
    return numbers


def _allowed_labels(task: Task) -> str:
    words = " or ".join(repr(each) for each in task.classes)
    return words + (", or 0 and 1" if task.kind == "binary" else "")


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
    if column.feature.nullable:
        categories = [text or None if text not in known else text for text in categories]
    positions = encoded.indices.to_numpy(zero_copy_only=False)
    try:
        codes: NDArray[np.float32] = encode_column(column.feature, categories)[positions]
    except InvalidInput:
        unknown = [position for position, category in enumerate(categories) if category not in known]
        raise InvalidValue(_first_row_of(unknown, positions), _allowed(column)) from None
    return codes


def _numbers(values: Any, column: FeatureColumn) -> NDArray[np.float32]:
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        text = as_text(values)
        values = _parsed(_flags(text) if column.feature.kind == "boolean" else text, column)
    numbers = np.array(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    if column.missing is not None:
        # pandas writes a blank cell as NaN, so both are treated alike.
        numbers[np.isnan(numbers)] = float(column.missing)
    try:
        return encode_column(column.feature, numbers)
    except InvalidInput:
        raise InvalidValue(_first_not_encoded(column.feature, numbers), _allowed(column)) from None


def _flags(text: Any) -> Any:
    """Write true and false, in any case, as 1 and 0; other text stays."""
    lower = pc.utf8_lower(text)
    return pc.replace_substring_regex(pc.replace_substring_regex(lower, "^true$", "1"), "^false$", "0")


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
