"""Labels that come within a rollout: whether the canary's mean loss is greater than stable's, at any time.

Each label belongs to a row that stable, the canary or both have answered, and gives the loss of that answer, 0 to 1. In
the order of the labels, a row that both answered is a pair; otherwise a row of one version is paired with the next row
of the other one, so both were labelled at about the same time. The differences d = canary - stable are within [-1, 1],
and the wealth of the bets 1 + b*(d - m) is a non-negative supermartingale while their mean is at most m.
So the test may be read after every label (Ville; sequential.py), and its greatest wealth so far counts. That needs the
order of the labels to stay: a file of labels grows at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from rollout.analysis.verdict import GateResult, Verdict

# The best bet is mean/variance of d: about 0.02 to 0.8 for differences of 0.005 to 0.1 in a Brier score.
BETS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
LEAST_PROBABILITY: Final = 0.01
"""Of log loss: a probability below it counts as this one, so that the loss has a greatest value."""

Loss = Literal["brier", "log_loss", "absolute"]
Share = Annotated[float, Field(gt=0, lt=1)]
Margin = Annotated[float, Field(ge=0, le=0.2)]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """The losses of the answers to one labelled row, 0 to 1; None: this version has not answered it."""

    stable: float | None
    canary: float | None


class LossLimits(BaseModel):
    """What is allowed, in units of the loss. The canary fails when it is shown to be more than worse_by above stable.

    It passes when it is shown to be less than at_most_worse above. alpha: the chance that a canary within worse_by ever
    fails; pass_alpha: that one beyond at_most_worse ever passes. min_pairs: fewer decide nothing.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    worse_by: Margin = 0.0
    at_most_worse: Annotated[float, Field(gt=0, le=0.2)] = 0.02
    min_pairs: Annotated[int, Field(ge=1)] = 100
    alpha: Share = 0.05
    pass_alpha: Share = 0.05


def row_loss(kind: Loss, scores: Sequence[float], truth: float, *, largest_error: float = 1.0) -> float:
    """Return the loss of one answer, 0 to 1.

    scores: one probability, one for each class, or a value (with its interval: lower end, value, upper end).

    truth: the place of the class, or the value. largest_error: an absolute error from there on costs 1.
    """
    if kind == "absolute":
        return min(abs(scores[len(scores) // 2] - truth) / largest_error, 1.0)
    chances = [1 - scores[0], scores[0]] if len(scores) == 1 else list(scores)
    if kind == "log_loss":
        own = min(max(chances[int(truth)], LEAST_PROBABILITY), 1.0)
        return math.log(own) / math.log(LEAST_PROBABILITY)
    hits = (float(place == int(truth)) for place in range(len(chances)))
    return min(sum((chance - hit) ** 2 for chance, hit in zip(chances, hits, strict=True)) / 2, 1.0)


def differences(rows: Iterable[LabelledRow]) -> Floats:
    """Return canary's loss minus stable's of each pair, in the order of the labels; the last row may wait for one."""
    found: list[float] = []
    waiting = LabelledRow(None, None)
    for row in rows:
        if row.stable is not None and row.canary is not None:
            found.append(row.canary - row.stable)
            continue
        stable = row.stable if row.stable is not None else waiting.stable
        canary = row.canary if row.canary is not None else waiting.canary
        if stable is not None and canary is not None:
            found.append(canary - stable)
            waiting = LabelledRow(None, None)
        else:
            waiting = row
    return np.array(found, dtype=np.float64)


def evidence(found: Floats) -> Floats:
    """Return the log-wealth after each difference, of the bets that their mean is positive."""
    if not len(found):
        return np.zeros(0)
    bets = np.array(BETS)[:, None]
    paths = np.cumsum(np.log1p(bets * found), axis=1)
    top = paths.max(axis=0)
    wealth: Floats = top + np.log(np.exp(paths - top).mean(axis=0))
    return wealth


def judge(name: str, rows: Iterable[LabelledRow], limits: LossLimits) -> GateResult:
    """Return the verdict on all labelled rows so far."""
    found = differences(rows)
    if not len(found):
        return GateResult(name, Verdict.NO_DATA, "no labelled rows of both versions yet")
    mean = float(found.mean())
    harm, proof = evidence(found - limits.worse_by), evidence(limits.at_most_worse - found)
    reason = (
        f"the canary's mean loss is {mean:+.4g} against stable's in {len(found):,} pairs of labelled rows; "
        f"allowed: up to {limits.at_most_worse:g} more"
    )
    verdict, further = Verdict.INCONCLUSIVE, None
    if len(found) < limits.min_pairs:
        further = limits.min_pairs - len(found)
    elif harm.max() >= -math.log(limits.alpha):
        verdict = Verdict.FAIL
    elif proof.max() >= -math.log(limits.pass_alpha):
        verdict = Verdict.PASS
    else:
        rate = float(proof[-1]) / len(found)
        further = math.ceil((-math.log(limits.pass_alpha) - float(proof[-1])) / rate) if rate > 0 else None
    return GateResult(name, verdict, reason, needs_requests=further, value=mean, threshold=limits.at_most_worse)
