"""How far two score histograms are apart, as an effect size with its uncertainty.

The Jensen-Shannon divergence in bits: 0 for equal histograms, 1 for disjoint ones (Lin 1991). For shifts that are not
large the population stability index is about 8 * ln 2 = 5.5 times as much, so its usual limits (Siddiqi 2006: below
0.1 no shift to speak of, above 0.25 another population) are 0.018 and 0.045 here. Unlike the PSI it is finite, with a
finite variance, when a bin of one histogram is empty: exactly then an answer is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_EXPECTED_ROWS: Final = 5.0
"""Neighbouring bins are joined until the smaller sample expects this many rows (Cochran's rule for chi-square)."""


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


def shift(stable: Sequence[float], canary: Sequence[float]) -> Shift:
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
