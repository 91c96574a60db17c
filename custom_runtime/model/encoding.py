"""Values -> float32 feature rows, derived from the contract; training, loading and serving share it.

A number is its value, a boolean 0 or 1, a category its index in the contract's list. A missing value of a nullable
feature is NaN, of a nullable category the code after the last one. A row is `WIDTH` float32 values in the contract's
order; stored, it is those values little-endian, without padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.schema import Feature, Value

FEATURES = CONTRACT.features
WIDTH = len(FEATURES)
ROW_DTYPE = np.dtype("<f4")
ROW_BYTES = WIDTH * ROW_DTYPE.itemsize
POSITIONS: Mapping[str, int] = {feature.name: position for position, feature in enumerate(FEATURES)}
CODES: Mapping[str, Mapping[str | None, float]] = {
    feature.name: {category: float(code) for code, category in enumerate(feature.codes)}
    for feature in FEATURES
    if feature.is_category
}

Matrix = NDArray[np.float32]


def encode_column(feature: Feature, values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
    """Encode one feature of n rows -> float32 [n].

    values: numbers (None or NaN: missing), or category names (None: missing).
    Raises InvalidInput naming the first value that the contract does not allow, and its row.
    """
    if feature.is_category:
        return _encode_categories(feature, values)
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{feature.name}: values are not all numbers; allowed: {feature.allowed}") from error
    # NaN fails both comparisons, so one expression rejects NaN, infinities and values out of range.
    allowed = (numbers >= feature.minimum) & (numbers <= feature.maximum)
    if feature.kind != "number":
        allowed &= np.floor(numbers) == numbers
    if feature.nullable:
        allowed |= np.isnan(numbers)
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise InvalidInput(f"{feature.name}[{row}] is {numbers[row]:g}; allowed: {feature.allowed}")
    return numbers.astype(np.float32)


def encode_table(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Matrix:
    """Encode a whole table that has every feature: name -> values [n] -> float32 [n, WIDTH], C order.

    Raises InvalidInput when a feature is missing or a value is not allowed.
    """
    missing = [feature.name for feature in FEATURES if feature.name not in columns]
    if missing:
        raise InvalidInput(f"columns missing: {', '.join(missing)}; present: {', '.join(columns) or 'none'}")
    encoded = [encode_column(feature, columns[feature.name]) for feature in FEATURES]
    return np.ascontiguousarray(np.stack(encoded, axis=1))


def decode_row(row: NDArray[np.float32]) -> dict[str, Value]:
    """Decode one float32 row [WIDTH] into contract values: numbers, booleans, category names, None where missing."""
    return {feature.name: _decode(feature, float(value)) for feature, value in zip(FEATURES, row, strict=True)}


def _decode(feature: Feature, value: float) -> Value:
    if feature.is_category:
        return feature.codes[int(value)]
    if math.isnan(value):
        return None
    if feature.kind == "boolean":
        return bool(value)
    return int(value) if feature.kind == "integer" else value


def _encode_categories(feature: Feature, values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
    codes = CODES[feature.name]
    try:
        return np.fromiter((codes[value] for value in values), dtype=np.float32, count=len(values))
    except (KeyError, TypeError):
        row, value = next((row, value) for row, value in enumerate(values) if not _is_category(codes, value))
        raise InvalidInput(f"{feature.name}[{row}] is {quoted(value)}; allowed: {feature.allowed}") from None


def _is_category(codes: Mapping[str | None, float], value: Any) -> bool:
    return isinstance(value, str | None) and value in codes
