"""The JSON bodies of POST /predict: bytes -> query, prediction -> bytes, error -> bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from custom_runtime.active import CONTRACT
from custom_runtime.errors import MOST_PROBLEMS, Internal, InvalidInput, ServingError, listed, quoted
from custom_runtime.model.encoding import CODES, POSITIONS, WIDTH
from custom_runtime.prediction.explanations import ExplainedPrediction
from custom_runtime.prediction.outputs import READERS
from custom_runtime.prediction.query import NO_FEATURES, Prediction, Query
from custom_runtime.protocol import explanations
from custom_runtime.schema import FEATURE_SOURCES, VERSION_FIELD

KEY = CONTRACT.key
_KEY_FIELD = CONTRACT.key_field
_IS_TEXT_KEY = _KEY_FIELD is not None and _KEY_FIELD.is_text
_ALLOWED = ({} if _KEY_FIELD is None else {_KEY_FIELD.name: _KEY_FIELD.allowed}) | {
    feature.name: feature.allowed for feature in CONTRACT.features
}
_LEAST = "every feature" if KEY is None else f"at least {KEY!r}"
_ONE_ROW = range(1)
_validate_json = CONTRACT.input.__pydantic_validator__.validate_json
_key_of: Callable[[Any], Any] = attrgetter(KEY or CONTRACT.features[0].name)
# Feature position -> what a null is in the row, for those that may be null.
_MISSING = {
    POSITIONS[feature.name]: CODES[feature.name][None] if feature.is_category else math.nan
    for feature in CONTRACT.features
    if feature.nullable
}


def _only_key() -> Callable[[bytes], re.Match[bytes] | None]:
    """Return a matcher of the commonest body, a positive integer key alone, which Pydantic need not read.

    It matches nothing where Pydantic might say more than the key's limits: text, validators, rules or fields of a
    contract's own.
    """
    fields, decorators = CONTRACT.input.model_fields, CONTRACT.input.__pydantic_decorators__
    if (
        _KEY_FIELD is None
        or _IS_TEXT_KEY
        or {type(rule).__name__ for rule in fields[_KEY_FIELD.name].metadata} != {"Ge", "Le"}
        or any(field.alias or (field.is_required() and name != _KEY_FIELD.name) for name, field in fields.items())
        or any((decorators.validators, decorators.field_validators, decorators.root_validators))
        or decorators.model_validators
    ):
        return lambda body: None
    space, name = rb"[ \n\r\t]*", re.escape(orjson.dumps(_KEY_FIELD.name))
    # 15 digits: with more, limits of the field could be beyond what is compared here.
    return re.compile(space.join((b"", rb"\{", name, b":", rb"([1-9][0-9]{0,14})", rb"\}", b""))).fullmatch


_match_only_key = _only_key()
_LEAST_KEY, _GREATEST_KEY = (0, -1) if _KEY_FIELD is None else (_KEY_FIELD.minimum, _KEY_FIELD.maximum)


def parse(body: bytes) -> Query:
    """Validate a request body. Raises InvalidInput naming each field, its value and what is allowed."""
    only_key = _match_only_key(body)
    if only_key is not None:
        key = int(only_key[1])
        if _LEAST_KEY <= key <= _GREATEST_KEY:
            return Query((key,), NO_FEATURES)
    try:
        row = _validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise InvalidInput(listed([_explain(problem) for problem in problems[:MOST_PROBLEMS]], len(problems))) from None
    fields = row.model_fields_set
    if KEY is None:
        if len(fields) < WIDTH:
            raise InvalidInput(_missing(fields))
        return Query(_ONE_ROW, _given(row, fields))
    key = _key_of(row)
    if _IS_TEXT_KEY and not _KEY_FIELD.accepts(key):  # type: ignore[union-attr]  # _IS_TEXT_KEY: there is one
        raise InvalidInput(f"{KEY} is {quoted(key)}; allowed: {_ALLOWED[KEY]}")
    return Query((key,), NO_FEATURES if len(fields) == 1 else _given(row, fields))


def _given(row: Any, fields: set[str]) -> dict[int, Any]:
    """Return feature position -> encoded value, for the fields that the body has."""
    given: dict[int, Any] = {}
    for name in fields:
        if name != KEY:
            value = getattr(row, name)
            given[POSITIONS[name]] = CODES[name][value] if isinstance(value, str) else value
    if _MISSING:
        for position, value in given.items():
            if value is None:
                given[position] = _MISSING[position]
    return given


def _missing(fields: set[str]) -> str:
    names = [name for name in POSITIONS if name not in fields]
    return listed([f"{name} is missing; allowed: {_ALLOWED[name]}" for name in names[:MOST_PROBLEMS]], len(names))


class PredictionBody:
    """Renders predictions of one model version; the constant parts are rendered once, for each source of features."""

    def __init__(self, version: str) -> None:
        self._templates = [_template(version, source) for source in FEATURE_SOURCES]

    def render(self, query: Query, prediction: Prediction | ExplainedPrediction) -> bytes:
        """Return the body for a query of one row."""
        template = self._templates[prediction.sources[0]]
        if _IS_PLAIN:
            return template % (query.keys[0], _render_score(prediction.scores[0]))
        return template % tuple([render(query, prediction) for render in _RENDERERS])

    def render_explained(self, query: Query, count: int, explained: ExplainedPrediction) -> bytes:
        """Return the body with its explanation, the `count` largest contributions of it."""
        body = self.render(query, explained)
        return b'%b,"explanation":%b}' % (body[:-1], explanations.render(explained, count))


def _template(version: str, source: str) -> bytes:
    """Return the body with a %b (%d for an integer key) for what differs from row to row."""
    parts = []
    for name in CONTRACT.prediction.model_fields:
        if name == KEY:
            value = b"%b" if _IS_TEXT_KEY else b"%d"
        elif name == VERSION_FIELD:
            value = orjson.dumps(version).replace(b"%", b"%%")
        elif name == _SOURCE:
            value = orjson.dumps(source)
        else:
            value = b"%b"
        parts.append(orjson.dumps(name).replace(b"%", b"%%") + b":" + value)
    return b"{" + b",".join(parts) + b"}"


def _render_key(query: Query, _: Prediction | ExplainedPrediction) -> Any:
    return orjson.dumps(query.keys[0]) if _IS_TEXT_KEY else query.keys[0]


def _renderer(name: str) -> Callable[[Query, Prediction | ExplainedPrediction], Any]:
    """Return a function that renders one field of the prediction."""
    if name == KEY:
        return _render_key
    output = next(output for output in CONTRACT.outputs if output.name == name)
    read, classes = READERS[name], CONTRACT.task.classes
    if output.role == "probabilities":
        return lambda _, prediction: orjson.dumps(dict(zip(classes, read(prediction), strict=True)))
    if output.role == "interval":
        return lambda _, prediction: _shortest_all(read(prediction))
    if output.role == "value":
        return lambda _, prediction: _shortest(read(prediction)[0])
    return lambda _, prediction: orjson.dumps(read(prediction)[0])


def _shortest(value: float) -> bytes:
    """Return a float32 as its shortest decimal: 12.3, and not 12.300000190734863, which it is as a double."""
    return orjson.dumps(np.float32(value), option=orjson.OPT_SERIALIZE_NUMPY)


def _shortest_all(values: Sequence[float]) -> bytes:
    return orjson.dumps(np.array(values, dtype=np.float32), option=orjson.OPT_SERIALIZE_NUMPY)


_SOURCE_OUTPUT = CONTRACT.output("source")
_SOURCE = None if _SOURCE_OUTPUT is None else _SOURCE_OUTPUT.name
_RENDERED = [name for name in CONTRACT.prediction.model_fields if name not in (VERSION_FIELD, _SOURCE)]
_RENDERERS = [_renderer(name) for name in _RENDERED]
_SCORE_OUTPUT = CONTRACT.output("probability") or CONTRACT.output("value")
_render_score: Callable[[Any], bytes] = _shortest if CONTRACT.task.kind == "regression" else orjson.dumps
# An integer key and one number after it, which needs no call for each field.
_IS_PLAIN = (
    KEY is not None
    and not _IS_TEXT_KEY
    and CONTRACT.columns == 1
    and _SCORE_OUTPUT is not None
    and [KEY, _SCORE_OUTPUT.name] == _RENDERED
)


def render_error(error: ServingError) -> bytes:
    """Return the body of an error: {"error", "code"}; the message of an internal error does not show its cause."""
    message = "internal error; the server's log has the cause" if isinstance(error, Internal) else str(error)
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode(), "code": error.code})


def _explain(problem: Any) -> str:
    kind, place, received = problem["type"], problem["loc"], problem["input"]
    if kind == "json_invalid":
        return f"the body is not JSON ({problem['ctx']['error']}); allowed: an object with {_LEAST}"
    if not place:
        return f"the body is {quoted(received)}; allowed: a JSON object with {_LEAST}"
    name = str(place[0])
    if kind == "missing":
        return f"{name} is missing; allowed: {_ALLOWED[name]}"
    if kind == "extra_forbidden":
        return f"unknown field {quoted(name)}; allowed: {', '.join(_ALLOWED)}"
    hint = " (leave the field out to use the stored value)" if received is None and KEY is not None else ""
    return f"{name} is {quoted(received)}; allowed: {_ALLOWED[name]}{hint}"
