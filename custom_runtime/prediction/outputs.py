"""Scores -> the outputs that the contract's prediction declares, for every protocol; pure.

A score is what the served graph answers for one row: the probability of the positive class, the probability of each
class, the value, or the value between the ends of its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from custom_runtime.active import CONTRACT
from custom_runtime.schema import FEATURE_SOURCES, OutputRole

ONE_COLUMN = CONTRACT.columns == 1
OUTPUT_NAMES = tuple(output.name for output in CONTRACT.outputs)
_CLASSES = CONTRACT.task.classes
# Columns of a regression with an interval.
_LOWER, _VALUE, _UPPER = range(3)


class Scored(Protocol):
    """A prediction, explained or not."""

    @property
    def scores(self) -> list[Any]:
        """What the graph answered for each row."""

    @property
    def sources(self) -> list[int]:
        """Where each row's features came from, as an index into FEATURE_SOURCES."""


def observed(scores: Sequence[Any]) -> list[float]:
    """Return what the score histogram counts: the score, the value, or the place of the most probable class."""
    if CONTRACT.task.kind == "multiclass":
        return [float(row.index(max(row))) for row in scores]
    return list(scores) if ONE_COLUMN else [row[_VALUE] for row in scores]


def _sources(prediction: Scored) -> list[str]:
    return [FEATURE_SOURCES[source] for source in prediction.sources]


def _scores(prediction: Scored) -> list[float]:
    return prediction.scores


def _values(prediction: Scored) -> list[float]:
    return [row[_VALUE] for row in prediction.scores]


def _intervals(prediction: Scored) -> list[float]:
    return [end for row in prediction.scores for end in (row[_LOWER], row[_UPPER])]


def _probabilities(prediction: Scored) -> list[float]:
    return [chance for row in prediction.scores for chance in row]


def _binary_labels(prediction: Scored) -> list[str]:
    return [_CLASSES[score >= 0.5] for score in prediction.scores]


def _labels(prediction: Scored) -> list[str]:
    return [_CLASSES[row.index(max(row))] for row in prediction.scores]


# Returns the values of one output, row by row: n times the output's columns.
Reader = Callable[[Scored], list[Any]]
_OF_ROLE: Mapping[OutputRole, Reader] = {
    "probability": _scores,
    "probabilities": _probabilities,
    "label": _binary_labels if ONE_COLUMN else _labels,
    "value": _scores if ONE_COLUMN else _values,
    "interval": _intervals,
    "source": _sources,
}
READERS: Mapping[str, Reader] = {output.name: _OF_ROLE[output.role] for output in CONTRACT.outputs}
