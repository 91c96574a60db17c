"""The result of a quality check as written to JSON; the page and the metrics show the same values."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from custom_runtime.schema import TaskKind
from handoff.evaluation.results import ClassCurves, Comparison, Residuals
from handoff.quality.drift import Drift


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measure(_Result):
    """A metric with its 95 % interval; None where it is not defined (one class only)."""

    value: float | None
    low: float | None
    high: float | None


class ClassQuality(_Result):
    """One class of several. measures: of the rows that are of it, and of it against the rest."""

    label: str
    labels: int
    measures: dict[str, Measure]


class Period(_Result):
    """The labelled predictions of one version in one period. measures: metric -> value and interval.

    positives: labels of the positive class; None where there are not two classes.
    """

    version: str
    begin: datetime
    end: datetime
    labels: int
    positives: int | None
    measures: dict[str, Measure]


FailingMetric = Literal["calibration", "log_loss", "mae"]


class Failing(_Result):
    """A segment where a version fails: a metric's value there, and what was expected.

    expected: of a calibration the predicted rate or mean, of a log loss the entropy of the model's own probabilities,
    of an MAE that of the other rows. low, high: the interval of the difference. label: the class, of several.
    """

    version: str
    feature: str
    segment: str
    labels: int
    metric: FailingMetric
    label: str | None
    value: float
    expected: float
    difference: float
    low: float
    high: float


class Freshness(_Result):
    """How old the features were when a version scored them, and where they came from (shares)."""

    version: str
    rows: int
    median_s: float | None
    p95_s: float | None
    sources: dict[str, float]


class VersionQuality(_Result):
    """One version: all its labels together, then over time."""

    version: str
    predictions: int
    overall: Period
    periods: tuple[Period, ...]
    curves: tuple[ClassCurves, ...] = ()
    classes: tuple[ClassQuality, ...] = ()
    residuals: Residuals | None = None


class Challenge(_Result):
    """A challenger beside another model that scored the same rows, on those that have a label.

    champion: the version that answered, or another of its challengers.
    """

    champion: str
    challenger: str
    comparison: Comparison


class Quality(_Result):
    """All results of one check. joined_by: how labels found their predictions; notes: which could get none, and why."""

    model: str
    task: TaskKind
    contract: str
    made: datetime
    joined_by: Literal["request id", "key and time"]
    labels: int
    unmatched: int
    superseded: int
    notes: tuple[str, ...] = ()
    predictions: int
    versions: tuple[VersionQuality, ...]
    challenges: tuple[Challenge, ...]
    drift: dict[str, tuple[Drift, ...]]
    drift_note: str
    freshness: tuple[Freshness, ...]
    failing: tuple[Failing, ...]
    failing_note: str
