"""What a contract is made of: the name, type, bounds and source columns of one feature.

`contract.py` declares the domain's features as a Pydantic model. This module defines `Feature` and derives the ordered
list of features from that model, so that the model is the only place that lists them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

# V2 datatypes of an optional input named after the feature.
NUMERIC_DATATYPES = ("FP32", "FP64", "INT32", "INT64", "BOOL")
CATEGORY_DATATYPE = "BYTES"


@dataclass(frozen=True, slots=True)
class Origin:
    """How a feature is written in source tables that do not use the contract's own column name or values.

    column: another name of the column. values: that column's values -> the feature's categories.
    missing: the value that a blank cell stands for (None: a blank cell is an error).
    """

    column: str | None = None
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    missing: float | str | None = None


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of the feature row. `categories` is empty for a numeric feature."""

    name: str
    description: str
    example: float | str
    unit: str
    minimum: float
    maximum: float
    categories: tuple[str, ...]
    origins: tuple[Origin, ...]

    @property
    def is_category(self) -> bool:
        """Whether the value is one of `categories`, and not a number."""
        return bool(self.categories)

    @property
    def datatype(self) -> str:
        """The V2 datatype that metadata declares."""
        return CATEGORY_DATATYPE if self.categories else NUMERIC_DATATYPES[0]

    @property
    def allowed(self) -> str:
        """The allowed values, as text for error messages."""
        if self.categories:
            return "one of " + ", ".join(repr(category) for category in self.categories)
        return f"a finite number from {self.minimum:g} to {self.maximum:g} {self.unit}".rstrip()


def numeric(description: str, *, unit: str, minimum: float, maximum: float, example: float) -> Any:
    """Declare a numeric feature of a contract model: optional in a request, finite, within [minimum, maximum]."""
    return Field(
        default=None,
        ge=minimum,
        le=maximum,
        allow_inf_nan=False,
        description=description,
        examples=[example],
        json_schema_extra={"unit": unit},
    )


def category(description: str, *, example: str) -> Any:
    """Declare a categorical feature of a contract model; its `Literal` lists the categories in code order."""
    return Field(default=None, description=description, examples=[example])


def features_of(model: type[BaseModel], *, key: str) -> tuple[Feature, ...]:
    """Return the features of a contract model in field order: every field but `key`."""
    return tuple(_feature(name, info) for name, info in model.model_fields.items() if name != key)


def fingerprint_of(features: tuple[Feature, ...], *, key: str) -> str:
    """Return the sha256 (64 hex digits) of what decides the bytes of a feature row: names, order, units, categories.

    Descriptions and ranges are left out: they change neither the meaning nor the position of a stored value.
    """
    layout = {"key": key, "features": [[f.name, f.unit, list(f.categories)] for f in features]}
    return hashlib.sha256(json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _feature(name: str, info: FieldInfo) -> Feature:
    bounds = {type(rule).__name__: rule for rule in info.metadata}
    is_category = get_origin(info.annotation) is Literal
    extra = info.json_schema_extra
    if not info.examples or not info.description:
        raise TypeError(f"feature {name!r} needs a description and an example: declare it with numeric() or category()")
    if not is_category and not {"Ge", "Le"} <= bounds.keys():
        raise TypeError(
            f"feature {name!r} is {info.annotation!r}: declare a float with numeric() or a Literal with category()"
        )
    return Feature(
        name=name,
        description=info.description,
        example=info.examples[0],
        unit=str(extra.get("unit", "")) if isinstance(extra, dict) else "",
        minimum=0.0 if is_category else float(bounds["Ge"].ge),
        maximum=0.0 if is_category else float(bounds["Le"].le),
        categories=tuple(get_args(info.annotation)) if is_category else (),
        origins=tuple(rule for rule in info.metadata if isinstance(rule, Origin)),
    )
