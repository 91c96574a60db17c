"""The effect of fitted scikit-learn transformers on the columns of a matrix (columns.py).

A transformer over categories is not translated: it is called on every category of the contract, and the answers become
a table. So any of them converts whose outputs depend on one column each, also a team's own. Numbers are scaled and
imputed as operations; other transformers of numbers (PCA, splines) become a part of the graph through skl2onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

from custom_runtime.model.matrix import UNARY
from handoff.conversion.columns import Category, Column, Computed, Operation, materialize
from handoff.conversion.graph import ML_DOMAIN, ML_OPSET, OPSET, GraphBuilder, output_names
from handoff.conversion.inputs import as_series
from handoff.errors import ImportRefused

# Random combinations of categories on which a table must agree with the transformer itself.
PROBES = 128
WOULD_CONVERT = (
    "OneHotEncoder, OrdinalEncoder, TargetEncoder and SimpleImputer over categories; scalers, SimpleImputer and "
    "what skl2onnx knows over numbers"
)


def apply_transformer(graph: GraphBuilder, transformer: Any, columns: Sequence[Column], path: str) -> list[Column]:
    """Return the columns after a fitted transformer ("passthrough" and "drop" included).

    path: the step's name, for messages. Raises ImportRefused naming it when it does not convert.
    """
    if isinstance(transformer, str):
        return [] if transformer == "drop" else list(columns)
    kind = type(transformer).__name__
    if kind == "Pipeline":
        for name, step in transformer.steps:
            columns = apply_transformer(graph, step or "passthrough", columns, f"{path} > {name}")
        return list(columns)
    if kind == "ColumnTransformer":
        return _column_transformer(graph, transformer, columns, path)
    if kind == "FeatureUnion":
        parts = [
            apply_transformer(graph, step, columns, f"{path} > {name}") for name, step in transformer.transformer_list
        ]
        return [column for part in parts for column in part]
    if hasattr(transformer, "get_support"):
        return [columns[place] for place in transformer.get_support(indices=True)]
    known = _operations(transformer, len(columns))
    if known is not None and not _any_text(columns) and not any(isinstance(column, Computed) for column in columns):
        return _after(columns, known)
    categories = [column for column in columns if isinstance(column, Category)]
    if columns and len(categories) == len(columns):
        table = _tabulate(transformer, categories, path)
        if table is not None:
            return table
        if _any_text(columns):
            raise ImportRefused(
                f"the step {path} ({kind}) computes a column out of several categories, which is not converted. "
                f"What converts: {WOULD_CONVERT}"
            )
    if _any_text(columns):
        raise ImportRefused(
            f"the step {path} ({kind}) takes text and numbers together; give it the text columns alone, in a "
            f"ColumnTransformer. What converts: {WOULD_CONVERT}"
        )
    return _through_skl2onnx(graph, transformer, columns, path)


def _column_transformer(graph: GraphBuilder, transformer: Any, columns: Sequence[Column], path: str) -> list[Column]:
    columns = list(columns)
    positions = transformer._transformer_to_input_indices
    parts: dict[str, list[Column]] = {}
    for name, step, _ in transformer.transformers_:
        chosen = [columns[place] for place in positions.get(name, ())]
        parts[name] = apply_transformer(graph, step, chosen, f"{path} > {name}") if chosen else []
    # `output_indices_` gives the position of each part's columns in the result, whatever was dropped.
    ordered = sorted((where.start, name) for name, where in transformer.output_indices_.items() if name in parts)
    return [column for _, name in ordered for column in parts[name]]


def _operations(transformer: Any, count: int) -> list[list[tuple[Operation, ...]]] | None:  # noqa: PLR0912
    """Return what a transformer does column by column: for each input, its outputs; None when it is not known here."""
    kind = type(transformer).__name__
    steps: list[tuple[Operation, ...]] = [()] * count
    if kind == "StandardScaler":
        steps = [()] * count
        if transformer.with_mean:
            steps = [(Operation("sub", float(value)),) for value in transformer.mean_]
        if transformer.with_std:
            steps = [
                (*step, Operation("div", float(value))) for step, value in zip(steps, transformer.scale_, strict=True)
            ]
    elif kind == "RobustScaler":
        steps = [()] * count
        if transformer.with_centering:
            steps = [(Operation("sub", float(value)),) for value in transformer.center_]
        if transformer.with_scaling:
            steps = [
                (*step, Operation("div", float(value))) for step, value in zip(steps, transformer.scale_, strict=True)
            ]
    elif kind == "MaxAbsScaler":
        steps = [(Operation("div", float(value)),) for value in transformer.scale_]
    elif kind == "MinMaxScaler":
        steps = [
            (Operation("mul", float(scale)), Operation("add", float(least)))
            for scale, least in zip(transformer.scale_, transformer.min_, strict=True)
        ]
        if transformer.clip:
            low, high = (float(value) for value in transformer.feature_range)
            steps = [(*step, Operation("max", low), Operation("min", high)) for step in steps]
    elif kind == "SimpleImputer" and transformer.statistics_.dtype.kind in "fiu":
        if not _is_nan(transformer.missing_values):
            return None
        if transformer.indicator_ is not None:
            return None  # indicators come after all columns, so they are no column's second output
        # A column that was all missing has no output.
        fills = [(Operation("fill", float(value)),) for value in transformer.statistics_]
        return [[] if np.isnan(fill[0].value) else [fill] for fill in fills]
    elif kind == "FunctionTransformer":
        function = getattr(transformer.func, "func", transformer.func)  # of a partial
        name = getattr(function, "__name__", "")
        if function is None or name == "check_array":
            steps = [()] * count
        elif name in UNARY and not transformer.kw_args:
            steps = [(*step, Operation(name)) for step in steps]
        else:
            return None
    else:
        return None
    return [[step] for step in steps]


def _after(columns: Sequence[Column], known: list[list[tuple[Operation, ...]]]) -> list[Column]:
    after: list[Column] = []
    for column, outputs in zip(columns, known, strict=True):
        for operations in outputs:
            if not isinstance(column, Computed):  # the caller has none of these
                after.append(column.then(*operations))
    return after


def _any_text(columns: Sequence[Column]) -> bool:
    return any(isinstance(column, Category) and column.values.dtype.kind not in "fiub" for column in columns)


def _tabulate(transformer: Any, columns: list[Category], path: str) -> list[Column] | None:
    """Call the transformer on every category of every feature and read off which output depends on which feature.

    Returns None when an output depends on more than one.
    """
    sizes = {column.source: len(column.values) for column in columns}
    base = dict.fromkeys(sizes, 0)
    rows: list[dict[int, int]] = []
    rows_of: dict[int, slice] = {}
    for source, size in sizes.items():
        rows_of[source] = slice(len(rows), len(rows) + size)
        rows += [{**base, source: code} for code in range(size)]
    table = _transform(transformer, columns, rows, path)
    after: list[Category] = []
    for values in table.T:
        sources = [source for source, places in rows_of.items() if not _same(values[places], values[places.start])]
        if len(sources) > 1:
            return None
        source = sources[0] if sources else columns[0].source
        after.append(Category(source, _typed(values[rows_of[source]])))
    random = np.random.default_rng(0)
    probes = [{source: int(random.integers(size)) for source, size in sizes.items()} for _ in range(PROBES)]
    expected = _transform(transformer, columns, probes, path)
    for column, values in zip(after, expected.T, strict=True):
        if not _same(_typed(column.values[[probe[column.source] for probe in probes]]), _typed(values)):
            return None
    return list(after)


def _transform(transformer: Any, columns: list[Category], rows: list[dict[int, int]], path: str) -> NDArray[Any]:
    """Call the transformer on rows of codes (feature -> code) as it was fitted: on a frame with names, or an array."""
    data: Any = pd.DataFrame(
        {place: as_series(column.values[[row[column.source] for row in rows]]) for place, column in enumerate(columns)}
    )
    names = getattr(transformer, "feature_names_in_", None)
    if names is not None:
        data.columns = list(names)
    else:
        data = data.to_numpy(dtype=object if _any_text(columns) else np.float64)
    try:
        result = transformer.transform(data)
    except Exception as error:  # a transformer can be third-party code
        raise ImportRefused(
            f"the step {path} ({type(transformer).__name__}) fails on a category that the contract allows: "
            f"{_short(error)}; let it take every category (handle_unknown='ignore' or categories=[...]), train again"
        ) from error
    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)


def _typed(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers as float64 even where they stood in an object array; text stays as it is."""
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        return values.astype(object)


def _same(left: NDArray[Any], right: Any) -> bool:
    return bool(np.all(pd.isna(left) & pd.isna(right) | (left == right)))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)


def _through_skl2onnx(graph: GraphBuilder, transformer: Any, columns: Sequence[Column], path: str) -> list[Column]:
    try:
        tensor, width = convert_part(graph, transformer, columns)
    except Exception as error:  # the converter raises whatever it meets, bare RuntimeError and KeyError included
        raise ImportRefused(
            f"the step {path} ({type(transformer).__name__}) does not convert to ONNX: {_short(error)}. "
            f"What converts: {WOULD_CONVERT}"
        ) from error
    tensor = graph.cast(tensor, np.float64)
    return [Computed(tensor, index) for index in range(width)]


def convert_part(
    graph: GraphBuilder, model: Any, columns: Sequence[Column], *, classifier: bool = False
) -> tuple[str, int]:
    """Convert a fitted transformer or estimator with skl2onnx behind materialized columns; return tensor and width."""
    source = materialize(graph, columns, np.dtype(graph.precision))
    kind = FloatTensorType if graph.precision == "float32" else DoubleTensorType
    options = {id(model): {"zipmap": False}} if classifier else None
    converted = to_onnx(
        model,
        initial_types=[("input", kind([None, len(columns)]))],
        options=options,
        target_opset={"": OPSET, ML_DOMAIN: ML_OPSET},
    )
    names = list(output_names(converted))
    shape = converted.graph.output[len(names) - 1].type.tensor_type.shape
    width = shape.dim[1].dim_value if len(shape.dim) > 1 else 1
    return graph.splice(converted, source, names[-1]), int(width)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:160]}..."
