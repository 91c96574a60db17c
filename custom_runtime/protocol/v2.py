"""V2 tensors <-> queries and predictions: the inference protocol's values, without a transport.

Inputs: `customer_id` INT64 (or INT32) [n] or [n, 1]; optional inputs named after the features, of the same n: FP32,
FP64, INT32, INT64 or BOOL for numbers, BYTES for categories.
Outputs: the probability FP64 [n, 1] and `features` BYTES [n, 1]; of an explained request those of explanations.py, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from custom_runtime.contract import FEATURES, KEY, PROBABILITY
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.model.encoding import POSITIONS, encode_column
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.query import FEATURE_SOURCES, Prediction, Query
from custom_runtime.protocol import explanations
from custom_runtime.schema import CATEGORY_DATATYPE, KEY_MAXIMUM, NUMERIC_DATATYPES

KEY_DATATYPE = "INT64"
_KEY_DATATYPES = (KEY_DATATYPE, "INT32")
SOURCE = "features"
OUTPUTS = ((PROBABILITY, "FP64"), (SOURCE, "BYTES"))
PREDICTION_OUTPUTS = tuple(name for name, _ in OUTPUTS)
_ALL_OUTPUTS = (*PREDICTION_OUTPUTS, *explanations.OUTPUTS)
_DATATYPES: Mapping[str, tuple[str, ...]] = {KEY: _KEY_DATATYPES} | {
    feature.name: (CATEGORY_DATATYPE,) if feature.is_category else NUMERIC_DATATYPES for feature in FEATURES
}
_MAX_DIMENSIONS = 2
# What a list of a numeric datatype may hold; a bool is an int to Python, and no number here.
_NUMBERS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "FP32": ((int, float), "a number"),
    "FP64": ((int, float), "a number"),
    "INT32": ((int,), "an integer"),
    "INT64": ((int,), "an integer"),
    "BOOL": ((bool,), "true or false"),
}


class Tensor(NamedTuple):
    """One input as it was received: data is a flat or nested list of values, or a flat array."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Any


def rows_of(tensors: Sequence[Tensor]) -> int:
    """Return the number of rows in the key's shape, without reading the data. Raises InvalidInput."""
    for tensor in tensors:
        if tensor.name == KEY:
            return _rows(tensor)
    raise InvalidInput(f"input {KEY!r} is missing; it is {KEY_DATATYPE} [n] or [n, 1]")


def decode(tensors: Sequence[Tensor], inference_id: str | None = None) -> Query:
    """Turn inputs into a query; inference_id: the message's id.

    Raises InvalidInput naming the input, the value and what is allowed.
    """
    rows = rows_of(tensors)
    if rows == 0:
        raise InvalidInput(f"input {KEY!r} has shape {list(_find(tensors, KEY).shape)}; allowed: at least one row")
    given: dict[int, float | NDArray[np.float32]] = {}
    customer_ids: list[int] = []
    seen: set[str] = set()
    for tensor in tensors:
        if _rows(tensor) != rows:
            raise InvalidInput(
                f"input {quoted(tensor.name)} has {_rows(tensor)} rows, {KEY!r} has {rows}; allowed: the same n"
            )
        allowed = _DATATYPES.get(tensor.name)
        if allowed is None:
            raise InvalidInput(f"unknown input {quoted(tensor.name)}; allowed: {', '.join(_DATATYPES)}")
        if tensor.datatype not in allowed:
            raise InvalidInput(
                f"input {tensor.name!r} has datatype {quoted(tensor.datatype)}; allowed: {' or '.join(allowed)}"
            )
        if tensor.name in seen:
            raise InvalidInput(f"input {tensor.name!r} is given twice; allowed: once")
        seen.add(tensor.name)
        values = _flat(tensor, rows)
        if tensor.name == KEY:
            customer_ids = _customer_ids(values)
            continue
        feature, position = FEATURES[POSITIONS[tensor.name]], POSITIONS[tensor.name]
        if feature.is_category:
            values = [_text(feature.name, value) for value in values]
        elif not isinstance(values, np.ndarray):
            _check_types(feature.name, values, *_NUMBERS[tensor.datatype])
        given[position] = encode_column(feature, values)
    return Query(customer_ids, given, inference_id=inference_id)


def check_outputs(requested: Sequence[str], explain: int | None = None) -> tuple[str, ...]:
    """Return the requested outputs in the model's order; none requested means all. Raises InvalidInput.

    explain: the request's parameter of this name; with it, "all" has the outputs that explain a prediction.
    """
    if not requested:
        return PREDICTION_OUTPUTS if explain is None else (*PREDICTION_OUTPUTS, *explanations.BY_PARAMETER)
    for name in requested:
        if name not in _ALL_OUTPUTS:
            raise InvalidInput(f"unknown output {quoted(name)}; allowed: {', '.join(_ALL_OUTPUTS)}")
        if explain is None and name in explanations.TOP:
            raise InvalidInput(
                f"output {name!r} needs the parameter {explanations.PARAMETER!r}; allowed: {explanations.ALLOWED}"
            )
    return tuple(name for name in _ALL_OUTPUTS if name in requested)


def encode_outputs(
    prediction: Prediction | ExplainedPrediction, requested: Sequence[str], explain: int | None = None
) -> list[dict[str, Any]]:
    """Turn a prediction into V2 outputs, each a dict of name, shape, datatype and flat data."""
    shape = [len(prediction.probabilities), 1]
    data: Mapping[str, list[Any]] = {
        PROBABILITY: prediction.probabilities,
        SOURCE: [FEATURE_SOURCES[source] for source in prediction.sources],
    }
    outputs = [
        {"name": name, "shape": shape, "datatype": datatype, "data": data[name]}
        for name, datatype in OUTPUTS
        if name in requested
    ]
    if isinstance(prediction, ExplainedPrediction):
        outputs += explanations.encode_outputs(prediction, requested, explain or 0)
    return outputs


def _find(tensors: Sequence[Tensor], name: str) -> Tensor:
    return next(tensor for tensor in tensors if tensor.name == name)


def _rows(tensor: Tensor) -> int:
    shape = tensor.shape
    if not 1 <= len(shape) <= _MAX_DIMENSIONS or (len(shape) == _MAX_DIMENSIONS and shape[1] != 1) or shape[0] < 0:
        raise InvalidInput(f"input {quoted(tensor.name)} has shape {quoted(list(shape))}; allowed: [n] or [n, 1]")
    return int(shape[0])


def _flat(tensor: Tensor, rows: int) -> Any:
    """Return the tensor's values as a flat list or array of exactly `rows` values."""
    values = tensor.data
    if not isinstance(values, list | np.ndarray):
        raise InvalidInput(f"input {quoted(tensor.name)} has data of type {type(values).__name__}; allowed: a list")
    if len(values) == rows and len(tensor.shape) == _MAX_DIMENSIONS and rows and isinstance(values[0], list):
        nested, values = values, []
        for row in nested:
            if not isinstance(row, list) or len(row) != 1:
                raise InvalidInput(f"input {quoted(tensor.name)} has a row {quoted(row)}; allowed: one value per row")
            values.append(row[0])
    if len(values) != rows:
        raise InvalidInput(
            f"input {quoted(tensor.name)} has {len(values)} values for shape {list(tensor.shape)}; allowed: {rows}"
        )
    return values


def _customer_ids(values: Any) -> list[int]:
    if isinstance(values, np.ndarray) and (not len(values) or values.min() >= 0):
        return values.tolist()  # type: ignore[no-any-return]
    ids: list[int] = values.tolist() if isinstance(values, np.ndarray) else values
    for row, customer_id in enumerate(ids):
        # bool is a subclass of int, but True is not a customer id.
        if type(customer_id) is not int or not 0 <= customer_id <= KEY_MAXIMUM:
            raise InvalidInput(f"{KEY}[{row}] is {quoted(customer_id)}; allowed: an integer from 0 to {KEY_MAXIMUM}")
    return ids


def _check_types(name: str, values: Sequence[Any], types: tuple[type, ...], allowed: str) -> None:
    for row, value in enumerate(values):
        if type(value) not in types:
            raise InvalidInput(f"{name}[{row}] is {quoted(value)}; allowed: {allowed}")


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    raise InvalidInput(f"{name} is {quoted(value)}; allowed: UTF-8 text")
