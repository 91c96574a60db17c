"""The content of each column of a matrix inside a pipeline, as a function of one packed feature.

An encoder over a category is a table by the category's code; scaling and imputing a number is a short chain of
operations in float64. So a fitted ColumnTransformer needs no strings at run time, and a tree after it can be rewritten
to split on the packed features themselves (forest.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_runtime.model.matrix import apply_operation, evaluate
from handoff.conversion.graph import INPUT, GraphBuilder

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a number's chain: "add", "sub", "mul", "div", "fill" (of NaN), "min", "max", "isnan" or of UNARY.

    All of them are monotone increasing, except "isnan" and "mul" or "div" below zero.
    """

    kind: str
    value: float = 0.0

    def apply(self, numbers: Floats) -> Floats:
        """Apply it as the fitted transformer does, in float64."""
        return apply_operation(self.kind, self.value, numbers)

    def emit(self, graph: GraphBuilder, tensor: str, values: Floats) -> str:
        """Add it to the graph for columns [n, m] with one value each."""
        constant = graph.constant(values, np.float64)
        match self.kind:
            case "fill":
                return graph.add("Where", graph.add("IsNaN", tensor), constant, tensor)
            case "isnan":
                return graph.cast(graph.add("IsNaN", tensor), np.float64)
            case "log1p":
                return graph.add("Log", graph.add("Add", tensor, graph.constant([1.0], np.float64)))
            case "expm1":
                return graph.add("Sub", graph.add("Exp", tensor), graph.constant([1.0], np.float64))
            case "log" | "sqrt" | "exp":
                return graph.add(self.kind.capitalize(), tensor)
            case kind:
                return graph.add(kind.capitalize(), tensor, constant)


@dataclass(frozen=True, slots=True)
class Category:
    """A column that is decided by a category's code. values: [K], any dtype until it is encoded."""

    source: int
    values: NDArray[Any]

    def then(self, *operations: Operation) -> Category:
        """Return the column after more operations."""
        values = np.asarray(self.values, dtype=np.float64)
        for operation in operations:
            values = operation.apply(values)
        return replace(self, values=values)


@dataclass(frozen=True, slots=True)
class Number:
    """A column computed from a number. decimal: the model was fitted on float64 values.

    A packed feature is float32: 70.35 arrives as 70.3499985. The model was fitted on 70.35, so the shortest decimal
    that rounds to the float32 is what the model would have been given.
    """

    source: int
    operations: tuple[Operation, ...] = ()
    decimal: bool = True

    def then(self, *operations: Operation) -> Number:
        """Return the column after more operations."""
        return replace(self, operations=(*self.operations, *operations))

    def evaluate(self, packed: NDArray[np.float32]) -> Floats:
        """Return what the fitted transformers make of packed float32 values [n]."""
        chain = [(operation.kind, operation.value) for operation in self.operations]
        return evaluate(packed, chain, decimal=self.decimal)

    @property
    def is_increasing(self) -> bool:
        """Whether a greater packed value never gives a smaller one here; NaN aside."""
        return all(
            operation.kind != "isnan" and not (operation.kind in ("mul", "div") and operation.value <= 0)
            for operation in self.operations
        )


@dataclass(frozen=True, slots=True)
class Computed:
    """A column that the graph computes: column `index` of a tensor [n, m] (float64)."""

    tensor: str
    index: int


Column = Category | Number | Computed


def materialize(graph: GraphBuilder, columns: Sequence[Column], dtype: Any = np.float64) -> str:
    """Add the nodes that compute a matrix [n, len(columns)] of `dtype` and return its name."""
    parts: list[str] = []
    order: list[int] = []
    categories = [place for place, column in enumerate(columns) if isinstance(column, Category)]
    if categories:
        parts.append(_look_up(graph, [columns[place] for place in categories], dtype))
        order += categories
    numbers: dict[tuple[str, ...], list[int]] = {}
    for place, column in enumerate(columns):
        if isinstance(column, Number):
            numbers.setdefault(tuple(operation.kind for operation in column.operations), []).append(place)
    for kinds, places in numbers.items():
        parts.append(_compute(graph, kinds, [columns[place] for place in places], dtype))
        order += places
    tensors: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        if isinstance(column, Computed):
            tensors.setdefault(column.tensor, []).append(place)
    for tensor, places in tensors.items():
        indices = [column.index for column in (columns[place] for place in places) if isinstance(column, Computed)]
        parts.append(graph.cast(graph.select(tensor, indices), dtype))
        order += places
    joined = parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)
    if order == sorted(order):
        return joined
    return graph.select(joined, [int(place) for place in np.argsort(order)])


def look_up_indices(graph: GraphBuilder, sources: Sequence[int], sizes: Sequence[int]) -> str:
    """Return int64 [n, m]: for each source feature, its code plus the place where its part of a flat table starts."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    codes = graph.cast(graph.select(INPUT, list(sources)), np.int64)
    return codes if len(sources) == 1 else graph.add("Add", codes, graph.constant(starts, np.int64))


def _look_up(graph: GraphBuilder, columns: Sequence[Column], dtype: Any) -> str:
    chosen = [column for column in columns if isinstance(column, Category)]
    indices = look_up_indices(graph, [c.source for c in chosen], [len(c.values) for c in chosen])
    flat = np.concatenate([np.asarray(column.values, dtype=np.float64) for column in chosen])
    return graph.add("Gather", graph.constant(flat, dtype), indices, axis=0)


def _compute(graph: GraphBuilder, kinds: tuple[str, ...], columns: Sequence[Column], dtype: Any) -> str:
    chosen = [column for column in columns if isinstance(column, Number)]
    tensor = graph.select(INPUT, [column.source for column in chosen])
    if not kinds:
        return tensor if np.dtype(dtype) == np.float32 else graph.cast(tensor, dtype)
    tensor = graph.cast(tensor, np.float64)
    for step in range(len(kinds)):
        values = np.array([column.operations[step].value for column in chosen])
        tensor = chosen[0].operations[step].emit(graph, tensor, values)
    return tensor if np.dtype(dtype) == np.float64 else graph.cast(tensor, dtype)
