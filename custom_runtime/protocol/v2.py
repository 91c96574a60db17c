"""V2 tensors <-> queries and predictions: the inference protocol's values, without a transport.

Inputs: the contract's key, INT64 (or INT32) or BYTES, [n] or [n, 1]; optional inputs named after the features, of the
same n: FP32, FP64, INT32, INT64 or BOOL for numbers (NaN, or null in JSON, for a missing value), BYTES for categories
(empty, or null in JSON, for a missing value).
Without a key every feature is required.
Outputs: those of the contract's prediction, [n, columns]; of an explained request those of explanations.py, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.features.store import Keys
from custom_runtime.model.encoding import POSITIONS, WIDTH, encode_column
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.outputs import OUTPUT_NAMES, READERS
from custom_runtime.prediction.query import NO_FEATURES, Prediction, Query
from custom_runtime.protocol import explanations
from custom_runtime.schema import CATEGORY_DATATYPE, NUMERIC_DATATYPES, Feature, Key

KEY = CONTRACT.key
PREDICTION_OUTPUTS = OUTPUT_NAMES
_ALL_OUTPUTS = (*PREDICTION_OUTPUTS, *explanations.OUTPUTS)
FEATURES = CONTRACT.features
_KEY_FIELD = CONTRACT.key_field
# The datatypes of each input, the declared one first.
DATATYPES: Mapping[str, tuple[str, ...]] = (
    {} if _KEY_FIELD is None else {_KEY_FIELD.name: ("BYTES",) if _KEY_FIELD.is_text else ("INT64", "INT32")}
) | {
    feature.name: (CATEGORY_DATATYPE,)
    if feature.is_category
    else tuple(dict.fromkeys((feature.datatype, *NUMERIC_DATATYPES)))
    for feature in FEATURES
}
# Its shape says how many rows a request has.
_ROW_FIELD = CONTRACT.row_field
_MAX_DIMENSIONS = 2
# The shapes of a request of one row.
ONE_ROW = ([1, 1], [1])
accepts_key: Callable[[object], bool] = bool if _KEY_FIELD is None else _KEY_FIELD.accepts
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
    """Return the number of rows in the shape of the key (of the first feature), without reading the data.

    Raises InvalidInput.
    """
    for tensor in tensors:
        if tensor.name == _ROW_FIELD:
            return _rows(tensor)
    raise InvalidInput(f"input {_ROW_FIELD!r} is missing; it is {DATATYPES[_ROW_FIELD][0]} [n] or [n, 1]")


def needs_store(tensors: Sequence[Tensor]) -> bool:
    """Whether inputs leave a feature to the store, by their number."""
    return KEY is not None and len(tensors) <= WIDTH


def decode(tensors: Sequence[Tensor], inference_id: str | None = None) -> Query:
    """Turn inputs into a query; inference_id: the message's id.

    Raises InvalidInput naming the input, the value and what is allowed.
    """
    rows = rows_of(tensors)
    if rows == 0:
        shape = list(_find(tensors, _ROW_FIELD).shape)
        raise InvalidInput(f"input {_ROW_FIELD!r} has shape {shape}; allowed: at least one row")
    if rows == 1 and len(tensors) == 1 and KEY is not None:  # the usual request: one key, and nothing else
        _, datatype, _, data = tensors[0]
        if datatype in DATATYPES[KEY] and type(data) is list and len(data) == 1 and accepts_key(data[0]):
            return Query(data, NO_FEATURES, inference_id=inference_id)
    given: dict[int, float | NDArray[np.float32]] = {}
    keys: Keys = range(rows)
    seen: set[str] = set()
    for tensor in tensors:
        if _rows(tensor) != rows:
            raise InvalidInput(
                f"input {quoted(tensor.name)} has {_rows(tensor)} rows, {_ROW_FIELD!r} has {rows}; allowed: the same n"
            )
        allowed = DATATYPES.get(tensor.name)
        if allowed is None:
            raise InvalidInput(f"unknown input {quoted(tensor.name)}; allowed: {', '.join(DATATYPES)}")
        if tensor.datatype not in allowed:
            raise InvalidInput(
                f"input {tensor.name!r} has datatype {quoted(tensor.datatype)}; allowed: {' or '.join(allowed)}"
            )
        if tensor.name in seen:
            raise InvalidInput(f"input {tensor.name!r} is given twice; allowed: once")
        seen.add(tensor.name)
        values = _flat(tensor, rows)
        if tensor.name == KEY:
            keys = _keys(_KEY_FIELD, values)  # type: ignore[arg-type]  # KEY is not None
            continue
        feature, position = FEATURES[POSITIONS[tensor.name]], POSITIONS[tensor.name]
        if feature.is_category:
            values = _categories(feature, values)
        elif not isinstance(values, np.ndarray):
            _check_types(feature, values, *_NUMBERS[tensor.datatype])
        given[position] = encode_column(feature, values)
    if KEY is None and len(given) < WIDTH:
        missing = [feature.name for feature in FEATURES if feature.name not in seen]
        raise InvalidInput(f"inputs are missing: {', '.join(missing)}; the contract has no key, so all are required")
    return Query(keys, given, inference_id=inference_id)


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
    rows = len(prediction.scores)
    outputs: list[dict[str, Any]] = [
        {
            "name": output.name,
            "shape": [rows, output.columns],
            "datatype": output.datatype,
            "data": READERS[output.name](prediction),
        }
        for output in CONTRACT.outputs
        if output.name in requested
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


def _keys(key: Key, values: Any) -> Keys:
    if key.is_text:
        texts = [_text(key.name, value) for value in values]
        _check_keys(key, texts)
        return texts
    if isinstance(values, np.ndarray):
        if not len(values) or (values.min() >= key.minimum and values.max() <= key.maximum):
            return values.tolist()  # type: ignore[no-any-return]
        values = values.tolist()
    # All at once: one by one, 512 keys take a tenth of the time of their answer.
    elif set(map(type, values)) == {int} and min(values) >= key.minimum and max(values) <= key.maximum:
        return values  # type: ignore[no-any-return]
    _check_keys(key, values)
    return values  # type: ignore[no-any-return]


def _check_keys(key: Key, values: Sequence[Any]) -> None:
    accepts = key.accepts
    for row, value in enumerate(values):
        if not accepts(value):
            raise InvalidInput(f"{key.name}[{row}] is {quoted(value)}; allowed: {key.allowed}")


def _check_types(feature: Feature, values: Sequence[Any], types: tuple[type, ...], allowed: str) -> None:
    if feature.nullable:
        types, allowed = (*types, NoneType), f"{allowed}, or null"
    for row, value in enumerate(values):
        if type(value) not in types:
            raise InvalidInput(f"{feature.name}[{row}] is {quoted(value)}; allowed: {allowed}")


def _categories(feature: Feature, values: Sequence[Any]) -> list[str | None]:
    """Return categories as text; None: missing, which a BYTES element writes as empty."""
    texts: list[str | None] = [
        None if value is None and feature.nullable else _text(feature.name, value) for value in values
    ]
    if feature.nullable and "" not in feature.categories:
        return [text or None for text in texts]
    return texts


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    raise InvalidInput(f"{name} is {quoted(value)}; allowed: UTF-8 text")
