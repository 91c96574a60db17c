"""The result of an evaluation as written to JSON; report.py draws the page from the same values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Points(_Result):
    """A curve: x[i], y[i]."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class Bin(_Result):
    """A calibration bin: the mean prediction, what happened, and its 95 % Wilson interval."""

    predicted: float
    observed: float
    low: float
    high: float
    rows: int


class Decile(_Result):
    """A tenth of the rows, by falling score. lift: rate / overall rate. gain: share of all positives up to here."""

    rows: int
    rate: float
    lift: float
    gain: float


class ClassCurves(_Result):
    """One class against the rest; of two classes only the positive one is drawn."""

    label: str
    roc: Points
    precision_recall: Points
    calibration: tuple[Bin, ...]
    lift: tuple[Decile, ...]


class ClassRow(_Result):
    """A class in the per-class table."""

    label: str
    rows: int
    precision: float
    recall: float
    f1: float
    auc: float | None


class Residuals(_Result):
    """A regression's residuals (truth - prediction): quantiles, a histogram, and the mean by tenth of prediction."""

    quantiles: dict[str, float]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]


class Segment(_Result):
    """The rows of one category. metrics: None where there are too few rows, or only one class."""

    feature: str
    category: str
    rows: int
    metrics: dict[str, float | None]
    champion: dict[str, float | None] | None = None


class Importance(_Result):
    """How much the loss grows when one feature's values are shuffled, mean and standard deviation of the repeats."""

    feature: str
    increase: float
    deviation: float


class Profile(_Result):
    """One feature of the rows. numbers: name -> value. counts: of the categories, or of a histogram's bins."""

    feature: str
    unit: str
    numbers: dict[str, float]
    labels: tuple[str, ...]
    counts: tuple[int, ...]


class Difference(_Result):
    """A metric of the model minus the champion's on the same rows, with its paired 95 % bootstrap interval.

    verdict: whether the whole interval lies on one side of zero.
    """

    metric: str
    model: float
    champion: float
    difference: float
    low: float
    high: float
    verdict: Literal["better", "worse", "no difference shown"]


class Comparison(_Result):
    """The model beside the champion. note: what is to be kept in mind about the rows."""

    champion: str
    rows: int
    replicates: int
    differences: tuple[Difference, ...]
    note: str = ""

    @property
    def worse(self) -> Sequence[Difference]:
        """The metrics in which the model is significantly worse."""
        return [difference for difference in self.differences if difference.verdict == "worse"]


class Evaluation(_Result):
    """All results. note: where the rows come from and what they prove."""

    model: str
    task: Literal["binary", "multiclass", "regression"]
    rows: int
    source: str
    note: str
    metrics: dict[str, float]
    classes: tuple[str, ...] = ()
    curves: tuple[ClassCurves, ...] = ()
    class_table: tuple[ClassRow, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    residuals: Residuals | None = None
    segments: tuple[Segment, ...] = ()
    importance: tuple[Importance, ...] = ()
    profile: tuple[Profile, ...] = ()
    comparison: Comparison | None = None
