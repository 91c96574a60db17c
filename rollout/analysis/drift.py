"""The gate on score drift: how far the canary's score histogram is from stable's, with the uncertainty of the estimate.

The distance is the Jensen-Shannon divergence in bits: 0 for equal histograms, 1 for disjoint ones (Lin 1991). For small
shifts the population stability index (PSI) is about 8 * ln 2 = 5.5 times as large, so its usual limits (Siddiqi 2006:
below 0.1 no relevant shift, above 0.25 another population) are 0.018 and 0.045 here. Unlike the PSI, the divergence and
its variance stay finite when a bin of one histogram is empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rollout.analysis.counts import Counts
from rollout.analysis.verdict import GateResult, OnDoubt, Verdict

MIN_EXPECTED_ROWS: Final = 5.0
"""Neighbouring bins are joined until the smaller sample expects this many rows (Cochran's rule for chi-square)."""
LOOK_GROWTH: Final = 1.25
"""The sample grows by this factor between two looks."""


@dataclass(frozen=True, slots=True)
class Shift:
    """An estimated divergence and its standard deviation, both in bits."""

    bits: float
    deviation: float

    def interval(self, *, fail_alpha: float, pass_alpha: float) -> tuple[float, float]:
        """Return a lower end that is wrong with probability fail_alpha, and an upper end with pass_alpha."""
        normal = NormalDist()
        low = self.bits - normal.inv_cdf(1 - fail_alpha) * self.deviation
        high = self.bits + normal.inv_cdf(1 - pass_alpha) * self.deviation
        return max(0.0, low), min(1.0, high)


def shift(stable: Sequence[float] | NDArray[Any], canary: Sequence[float] | NDArray[Any]) -> Shift:
    """Estimate the divergence of two histograms over the same bins; both must hold rows.

    The estimate is cleared of its bias, (bins - 1) * (1/n + 1/m) / 8 nats. The variance is the delta method's first
    order plus the second-order term 2 * (bins - 1) * ((1/n + 1/m) / 8)**2, which is what is left when there is no
    shift at all (8 times the divergence is then a scaled chi-square). Closed form: no random numbers.
    """
    q_rows, p_rows = _join_sparse(np.asarray(stable, dtype=np.float64), np.asarray(canary, dtype=np.float64))
    bins, m, n = len(q_rows), float(q_rows.sum()), float(p_rows.sum())
    q, p = q_rows / m, p_rows / n
    p_logs, q_logs = _log_ratio(p, (p + q) / 2), _log_ratio(q, (p + q) / 2)
    spread = (1 / n + 1 / m) / 8
    nats = float((p * p_logs).sum() + (q * q_logs).sum()) / 2 - (bins - 1) * spread
    variance = _variance(p, p_logs) / (4 * n) + _variance(q, q_logs) / (4 * m) + 2 * (bins - 1) * spread**2
    return Shift(max(0.0, nats) / math.log(2), math.sqrt(variance) / math.log(2))


def _join_sparse(
    stable: NDArray[np.float64], canary: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    smaller = min(stable.sum(), canary.sum())
    expected = (stable + canary) * (smaller / (stable.sum() + canary.sum()))
    starts, filled = [0], 0.0
    for index, rows in enumerate(expected):
        if filled >= MIN_EXPECTED_ROWS and float(expected[index:].sum()) >= MIN_EXPECTED_ROWS:
            starts.append(index)
            filled = 0.0
        filled += float(rows)
    return np.add.reduceat(stable, starts), np.add.reduceat(canary, starts)


def _log_ratio(shares: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln(shares / middle), 0 for an empty bin: x * ln(x) goes to 0 with x."""
    ratio = np.divide(shares, middle, out=np.ones_like(shares), where=shares > 0)
    return np.log(ratio)


def _variance(shares: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    mean = float((shares * values).sum())
    return max(0.0, float((shares * values**2).sum()) - mean**2)


@dataclass(frozen=True, slots=True)
class DriftState:
    """The last look of this step, and how many looks the rollout has had.

    `rows` are the canary's rows at that look, 0 before the first.
    """

    looks: int = 0
    rows: float = 0.0
    seen: Shift | None = None

    def next_step(self) -> DriftState:
        """Start a new comparison; the looks already spent stay spent."""
        return DriftState(looks=self.looks)


@dataclass(frozen=True, slots=True)
class DriftGate:
    """How far the canary's scores are from stable's, by size and not by significance: a new model *should* differ.

    `threshold` is a Jensen-Shannon divergence in bits; 0.045 is the PSI's customary 0.25.

    Fails when even the lower end of the interval exceeds `threshold`, passes when even the upper end is below, and is
    inconclusive between. A failure asks a person (`on_fail`: hold), because statistics cannot say whether a new model
    is right to differ; with `rollback` it is rolled back. An interval may not be looked at freely, so looks are spaced
    (the sample grows by LOOK_GROWTH) and look k spends alpha / (k * (k + 1)), which sums to alpha. Only rows of one
    step are pooled: with other weights the arms would sample the hours of the day differently, and drift that is none
    would show.
    """

    share: float = 0.1
    threshold: float = 0.045
    min_rows: int = 200
    dry_run: bool = False
    on_fail: OnDoubt = OnDoubt.HOLD

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        if not (0 < self.share <= 1 and 0 < self.threshold < 1 and self.min_rows >= 50):
            raise ValueError(
                f"share {self.share}, threshold {self.threshold}, min_rows {self.min_rows}: "
                "0 < share <= 1, 0 < threshold < 1, min_rows >= 50"
            )

    def take(self, state: DriftState, stable: Counts, canary: Counts) -> DriftState:
        """Look at the counts of the step if it is time to."""
        theirs, mine = _independent(stable), _independent(canary)
        rows = fsum(mine)  # exact: a sample on the edge counts on every Python alike
        if min(rows, fsum(theirs)) < self.min_rows or rows < LOOK_GROWTH * state.rows:
            return state
        return DriftState(state.looks + 1, rows, shift(theirs, mine))

    def judge(self, state: DriftState, stable: Counts, canary: Counts, alpha: float, pass_alpha: float) -> GateResult:
        """Say what the last look showed."""
        if state.seen is None:
            arms = {"the canary": fsum(_independent(canary)), "stable": fsum(_independent(stable))}
            arm = min(arms, key=lambda name: arms[name])
            short = max(1, self.min_rows - int(arms[arm]))
            return GateResult(
                "drift",
                Verdict.INCONCLUSIVE,
                f"{arm} has scored {int(arms[arm]):,} requests in this step: needs about {short:,} more",
                short if arm == "the canary" else None,
                threshold=self.threshold,
                dry_run=self.dry_run,
            )
        spent = state.looks * (state.looks + 1)
        low, high = state.seen.interval(fail_alpha=alpha * self.share / spent, pass_alpha=pass_alpha / spent)
        verdict, further, why = Verdict.INCONCLUSIVE, None, f"the interval contains {self.threshold:g}"
        if low > self.threshold:
            verdict, why = (
                Verdict.FAIL,
                f"the requests or the model have changed: even the lower end exceeds {self.threshold:g}",
            )
        elif high < self.threshold:
            verdict, why = Verdict.PASS, f"no shift that matters: even the upper end is below {self.threshold:g}"
        else:
            further = max(1, round(LOOK_GROWTH * state.rows - fsum(_independent(canary))))
            why += f", needs about {further:,} more canary requests to look again"
        return GateResult(
            "drift",
            verdict,
            f"scores moved by {state.seen.bits:.3f} bits ({low:.3f} to {high:.3f}; {state.rows:,.0f} rows): {why}",
            further,
            value=state.seen.bits,
            threshold=self.threshold,
            dry_run=self.dry_run,
        ).by(self.on_fail)


def _independent(counts: Counts) -> Sequence[float]:
    """Return the score histogram with as many rows as requests at most.

    The rows of one batch come from one caller and resemble each other; a request counts as one observation.
    """
    rows, answered = sum(counts.scores), counts.requests - counts.errors - counts.rejected
    weight = min(1.0, answered / rows) if rows else 1.0
    return [weight * count for count in counts.scores]
