"""The JSON bodies of POST /predict: bytes -> query, prediction -> bytes, error -> bytes."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError

from custom_runtime.contract import FEATURES, KEY, PROBABILITY, ChurnInput
from custom_runtime.errors import MOST_PROBLEMS, Internal, InvalidInput, ServingError, listed, quoted
from custom_runtime.model.encoding import CODES, POSITIONS
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.query import FEATURE_SOURCES, Prediction, Query
from custom_runtime.protocol import explanations
from custom_runtime.schema import KEY_MAXIMUM

_ALLOWED = {KEY: f"an integer from 0 to {KEY_MAXIMUM}"} | {feature.name: feature.allowed for feature in FEATURES}
_NO_FEATURES: dict[int, Any] = {}
_validate_json = ChurnInput.__pydantic_validator__.validate_json


def parse(body: bytes) -> Query:
    """Validate a request body. Raises InvalidInput naming each field, its value and what is allowed."""
    try:
        customer = _validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise InvalidInput(listed([_explain(problem) for problem in problems[:MOST_PROBLEMS]], len(problems))) from None
    fields = customer.model_fields_set
    if len(fields) == 1:
        return Query((customer.customer_id,), _NO_FEATURES)
    given: dict[int, Any] = {}
    for name in fields:
        if name != KEY:
            value = getattr(customer, name)
            given[POSITIONS[name]] = CODES[name][value] if isinstance(value, str) else value
    return Query((customer.customer_id,), given)


class PredictionBody:
    """Renders predictions of one model version; the constant parts are rendered once."""

    def __init__(self, version: str) -> None:
        self._head = b"{" + orjson.dumps(KEY) + b":%d," + orjson.dumps(PROBABILITY) + b":%b%b"
        self._tails = [
            b',"model_version":' + orjson.dumps(version) + b',"features":' + orjson.dumps(source) + b"}"
            for source in FEATURE_SOURCES
        ]

    def render(self, query: Query, prediction: Prediction | ExplainedPrediction) -> bytes:
        """Return the body for a query of one customer."""
        return self._head % (
            query.customer_ids[0],
            orjson.dumps(prediction.probabilities[0]),
            self._tails[prediction.sources[0]],
        )

    def render_explained(self, query: Query, count: int, explained: ExplainedPrediction) -> bytes:
        """Return the body with its explanation, the `count` largest contributions of it."""
        body = self.render(query, explained)
        return b'%b,"explanation":%b}' % (body[:-1], explanations.render(explained, count))


def render_error(error: ServingError) -> bytes:
    """Return the body of an error: {"error", "code"}; the message of an internal error does not show its cause."""
    message = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode(), "code": error.code})


def _explain(problem: Any) -> str:
    kind, place, received = problem["type"], problem["loc"], problem["input"]
    if kind == "json_invalid":
        return f"the body is not JSON ({problem['ctx']['error']}); allowed: an object with at least {KEY!r}"
    if not place:
        return f"the body is {quoted(received)}; allowed: a JSON object with at least {KEY!r}"
    name = str(place[0])
    if kind == "missing":
        return f"{name} is missing; allowed: {_ALLOWED[name]}"
    if kind == "extra_forbidden":
        return f"unknown field {quoted(name)}; allowed: {', '.join(_ALLOWED)}"
    hint = " (leave the field out to use the stored value)" if received is None else ""
    return f"{name} is {quoted(received)}; allowed: {_ALLOWED[name]}{hint}"
