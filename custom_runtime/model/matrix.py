"""The matrix that a model inside a pipeline takes, computed from packed rows as the fitted encoders compute it.

Each column follows from one feature: a category by a table of its codes, a number by a chain of operations in float64
on the shortest decimal that rounds to its float32. XGBoost puts its thresholds on values of the training data, so a
matrix that differs in the last digit takes other branches: on 46 one-hot and scaled columns a float32 graph of the same
encoders moved the log-odds by up to 0.85.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from custom_runtime.model.encoding import Matrix

Floats = NDArray[np.float64]

UNARY: Mapping[str, Callable[[Floats], Any]] = {
    "log1p": np.log1p,
    "log": np.log,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
}


class MatrixColumn(BaseModel):
    """One column. source: the feature's place in the packed row. table: of a category, the content for each code.

    decimal: a number was float64 when the model was fitted. operations: of a number, (kind, value) in order.
    """

    # A table may hold NaN, for a missing category.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    source: int
    table: tuple[float, ...] | None = None
    decimal: bool = True
    operations: tuple[tuple[str, float], ...] = ()


class MatrixBuilder:
    """Builds matrices of these columns in one dtype."""

    def __init__(self, columns: Sequence[MatrixColumn], dtype: Any) -> None:
        self._width = len(columns)
        self._dtype = dtype
        self._numbers = [(place, column) for place, column in enumerate(columns) if column.table is None]
        # All columns of one category are looked up at once.
        self._tables: list[tuple[int, list[int], NDArray[Any]]] = []
        for source in sorted({column.source for column in columns if column.table is not None}):
            places = [
                place for place, column in enumerate(columns) if column.source == source and column.table is not None
            ]
            table = np.array([columns[place].table for place in places], dtype=dtype).T
            self._tables.append((source, places, table))

    def build(self, rows: Matrix) -> NDArray[Any]:
        """Return the matrix [n, columns] of packed rows float32 [n, WIDTH]."""
        matrix = np.empty((len(rows), self._width), dtype=self._dtype)
        for source, places, table in self._tables:
            matrix[:, places] = table[rows[:, source].astype(np.int64)]
        for place, column in self._numbers:
            matrix[:, place] = evaluate(rows[:, column.source], column.operations, decimal=column.decimal)
        return matrix


def evaluate(packed: Matrix, operations: Sequence[tuple[str, float]], *, decimal: bool) -> Floats:
    """Return what fitted transformers make of packed float32 values [n], in float64."""
    values = shortest_decimals(packed) if decimal else packed.astype(np.float64)
    for kind, value in operations:
        values = apply_operation(kind, value, values)
    return values


def apply_operation(kind: str, value: float, numbers: Floats) -> Floats:
    """Apply one operation: "add", "sub", "mul", "div", "fill" (of NaN), "min", "max", "isnan" or one of UNARY."""
    with np.errstate(all="ignore"):
        return np.asarray(_apply(kind, value, numbers), dtype=np.float64)


def _apply(kind: str, value: float, numbers: Floats) -> Any:
    match kind:
        case "add":
            return numbers + value
        case "sub":
            return numbers - value
        case "mul":
            return numbers * value
        case "div":
            return numbers / value
        case "fill":
            return np.where(np.isnan(numbers), value, numbers)
        case "min":
            return np.minimum(numbers, value)
        case "max":
            return np.maximum(numbers, value)
        case "isnan":
            return np.isnan(numbers)
        case _:
            return UNARY[kind](numbers)


def shortest_decimals(values: Matrix) -> Floats:
    """Return, as float64, the shortest decimals that round to these float32 values: 70.35, not 70.3499984741."""
    return np.asarray(values, dtype=np.float32).astype("U32").astype(np.float64)
