"""Which column of a table is which feature, read off the contract and its origins.

Names are compared in snake_case, so that `StreamingTV`, `streaming_tv` and `customerID` are found without being
listed anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from custom_runtime.contract import FEATURES, KEY, LABEL
from custom_runtime.feature import Feature
from handoff.errors import DataError

# "StreamingTV" -> streaming|TV, "customerID" -> customer|ID, "HTTPPort" -> HTTP|Port
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[\s\-./_]+")


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """Where one feature stands in a table.

    name: the column's name there. values: what is written there -> the feature's categories, for what is not
    a category already. missing: what a blank cell stands for (None: a blank cell is an error).
    """

    feature: Feature
    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    missing: float | str | None = None


@dataclass(frozen=True, slots=True)
class TableColumns:
    """The columns of one table that matter here; `key` and `label` are None where the table has none."""

    features: tuple[FeatureColumn, ...]
    key: str | None
    label: str | None

    @property
    def names(self) -> list[str]:
        """Every column that is read, each once."""
        names = [column.name for column in self.features] + [self.key, self.label]
        return list(dict.fromkeys(name for name in names if name is not None))


def snake_case(name: str) -> str:
    """Return a column name as the contract spells names: StreamingTV -> streaming_tv."""
    return _SEPARATORS.sub("_", _WORD_STARTS.sub("_", name.strip())).strip("_").lower()


def match_columns(names: Sequence[str], *, source: str) -> TableColumns:
    """Find every feature among a table's column names.

    Raises DataError when a feature has no column, or two columns carry the same name.
    """
    by_name: dict[str, str] = {}
    for name in names:
        other = by_name.setdefault(snake_case(name), name)
        if other is not name:
            raise DataError(f"{source}: columns {other!r} and {name!r} have the same name; rename or drop one")
    found = [_find(feature, by_name) for feature in FEATURES]
    missing = [_wanted(feature) for feature, column in zip(FEATURES, found, strict=True) if column is None]
    if missing:
        raise DataError(f"{source}: columns missing: {', '.join(missing)}; present: {', '.join(names) or 'none'}")
    features = tuple(column for column in found if column is not None)
    return TableColumns(features, by_name.get(snake_case(KEY)), by_name.get(snake_case(LABEL)))


def _find(feature: Feature, by_name: Mapping[str, str]) -> FeatureColumn | None:
    for wanted in _names_of(feature):
        if snake_case(wanted) not in by_name:
            continue
        # An origin without a column is about the values, under whichever name they stand.
        origins = [origin for origin in feature.origins if origin.column in (None, wanted)]
        values = {written: category for origin in origins for written, category in origin.values.items()}
        missing = next((origin.missing for origin in origins if origin.missing is not None), None)
        return FeatureColumn(feature, by_name[snake_case(wanted)], values, missing)
    return None


def _names_of(feature: Feature) -> list[str]:
    return [feature.name, *(origin.column for origin in feature.origins if origin.column)]


def _wanted(feature: Feature) -> str:
    return " or ".join(_names_of(feature))
