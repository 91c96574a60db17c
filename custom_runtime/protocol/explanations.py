"""Explanations on the wire: how a request asks for one, and how it is rendered as JSON and as V2 outputs.

    POST /predict?explain=5                  "explanation": {base_value, log_odds, contributions: [...], others}
    V2, parameters {"explain": 5}            the outputs base_value, top_features, top_values, top_contributions
    V2, outputs [{"name": "contributions"}]  every feature's contribution, in the contract's order

`explain` is how many features are listed, the largest contribution first, whatever its sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import orjson
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import InvalidInput, quoted
from custom_runtime.model.encoding import POSITIONS, WIDTH, Matrix, decode_row
from custom_runtime.prediction.explanations import ExplainedPrediction

PARAMETER = "explain"
CONTRIBUTIONS, BASE_VALUE = "contributions", "base_value"
TOP_FEATURES, TOP_VALUES, TOP_CONTRIBUTIONS = "top_features", "top_values", "top_contributions"
# The outputs of V2 that only an explained request has, in the order in which they are answered.
OUTPUTS: Mapping[str, str] = {
    CONTRIBUTIONS: "FP32",
    BASE_VALUE: "FP32",
    TOP_FEATURES: "BYTES",
    TOP_VALUES: "BYTES",
    TOP_CONTRIBUTIONS: "FP32",
}
# What parameters {"explain": n} adds where no outputs are named.
BY_PARAMETER = (BASE_VALUE, TOP_FEATURES, TOP_VALUES, TOP_CONTRIBUTIONS)
TOP = frozenset((TOP_FEATURES, TOP_VALUES, TOP_CONTRIBUTIONS))
_NAMES = list(POSITIONS)
# For each feature, the text of each code; a missing category is empty, as in a V2 request.
_CODE_TEXTS = [[code or "" for code in feature.codes] for feature in CONTRACT.features]
ALLOWED = f"an integer from 1 to {WIDTH}: how many features are listed"


class Contribution(NamedTuple):
    """What one feature, with its value, adds to the log-odds of the positive class."""

    feature: str
    value: float | str | None
    contribution: float


def count_of_query(query: bytes) -> int | None:
    """Return `explain` of a URL's query, None where it has none. Raises InvalidInput."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    given = [value for name, value in pairs if name == PARAMETER]
    if not given:
        return None
    if len(given) > 1 or not (given[0].isascii() and given[0].isdigit() and len(given[0]) <= 6):
        raise InvalidInput(f"{PARAMETER} is {quoted(given[0] if len(given) == 1 else given)}; allowed: {ALLOWED}")
    return count_of(int(given[0]))


def count_of(value: Any) -> int | None:
    """Return the parameter `explain`, None where none is given. Raises InvalidInput."""
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= WIDTH:
        raise InvalidInput(f"parameter {PARAMETER!r} is {quoted(value)}; allowed: {ALLOWED}")
    return value


def is_asked(requested: Sequence[str]) -> bool:
    """Whether one of these outputs takes an explanation."""
    return not OUTPUTS.keys().isdisjoint(requested)


def largest(explained: ExplainedPrediction, row: int, count: int) -> list[Contribution]:
    """Return a row's `count` largest contributions, by magnitude; equal ones in the contract's order."""
    contributions = explained.contributions[row]
    values = decode_row(explained.rows[row])
    order = np.argsort(-np.abs(contributions), kind="stable")[:count].tolist()
    return [Contribution(_NAMES[place], _shown(values[_NAMES[place]]), float(contributions[place])) for place in order]


def render(explained: ExplainedPrediction, count: int) -> bytes:
    """Return the JSON object `explanation` of a request for one row."""
    top = largest(explained, 0, count)
    total = float(explained.contributions[0].sum())
    body = {
        "base_value": explained.base,
        "log_odds": explained.base + total,
        "contributions": [entry._asdict() for entry in top],
    }
    if count < WIDTH:  # so that the parts still add up to the whole
        body["others"] = total - sum(entry.contribution for entry in top)
    return orjson.dumps(body)


def encode_outputs(explained: ExplainedPrediction, requested: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Return those V2 outputs of `requested` that explain, each a dict of name, shape, datatype and flat data.

    count: of how many features the outputs `top_...` are, the largest first.
    """
    rows = len(explained.scores)
    data: dict[str, tuple[int, list[Any]]] = {}
    if CONTRIBUTIONS in requested:
        data[CONTRIBUTIONS] = (WIDTH, explained.contributions.ravel().tolist())
    if BASE_VALUE in requested:
        data[BASE_VALUE] = (1, [explained.base] * rows)
    if not TOP.isdisjoint(requested):
        order = np.argsort(-np.abs(explained.contributions), axis=1, kind="stable")[:, :count]
        data[TOP_FEATURES] = (count, [_NAMES[place] for place in order.ravel().tolist()])
        data[TOP_VALUES] = (count, np.take_along_axis(_texts(explained.rows), order, axis=1).ravel().tolist())
        data[TOP_CONTRIBUTIONS] = (count, np.take_along_axis(explained.contributions, order, axis=1).ravel().tolist())
    return [
        {"name": name, "shape": [rows, data[name][0]], "datatype": datatype, "data": data[name][1]}
        for name, datatype in OUTPUTS.items()
        if name in requested
    ]


def _shown(value: float | str | None) -> float | str | None:
    """Return a number as its shortest decimal: 70.35 was stored as the float32 70.3499985."""
    return value if value is None or isinstance(value, str) else float(str(np.float32(value)))


def _texts(rows: Matrix) -> NDArray[Any]:
    """Return every value as text, object [n, WIDTH]; column by column, because there may be a thousand rows."""
    texts = np.empty(rows.shape, dtype=object)
    for place, feature in enumerate(CONTRACT.features):
        column = rows[:, place]
        texts[:, place] = (
            np.array(_CODE_TEXTS[place], dtype=object)[column.astype(np.int64)]
            if feature.is_category
            else column.astype("U32")
        )
    return texts
