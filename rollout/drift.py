"""How far two score histograms are apart, as an effect size with its uncertainty.

The population stability index, PSI = sum((p - q) * ln(p / q)). The usual reading (Siddiqi 2006, "Credit Risk
Scorecards"): below 0.1 no shift to speak of, above 0.25 a different population.
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
PULL_ROWS: Final = 0.25
"""Of 0.25, 0.5 and 1 the one whose two-sided 95 % interval missed least: 4 % at 200 rows and 5 % at 1000, simulated."""


@dataclass(frozen=True, slots=True)
class Shift:
    """An estimated PSI and its standard deviation."""

    psi: float
    deviation: float

    def interval(self, *, fail_alpha: float, pass_alpha: float) -> tuple[float, float]:
        """Return a lower end that is wrong with probability fail_alpha, and an upper end with pass_alpha."""
        normal = NormalDist()
        low = self.psi - normal.inv_cdf(1 - fail_alpha) * self.deviation
        return max(0.0, low), self.psi + normal.inv_cdf(1 - pass_alpha) * self.deviation


def shift(stable: Sequence[float], canary: Sequence[float]) -> Shift:
    """Estimate the PSI of two histograms over the same bins; both must hold rows.

    The estimate is cleared of its bias, (bins - 1) * (1/n + 1/m). The variance is the delta method's first order plus
    the second-order term 2 * (bins - 1) * (1/n + 1/m)**2, which is what is left when there is no shift at all (PSI is
    then a scaled chi-square). Each share is pulled towards the pooled one by PULL_ROWS a bin, so an empty bin gives a
    large, finite contribution, and a bin empty in both gives none. Closed form: no random numbers.
    """
    q_rows, p_rows = _join_sparse(np.asarray(stable, dtype=np.float64), np.asarray(canary, dtype=np.float64))
    bins, m, n = len(q_rows), float(q_rows.sum()), float(p_rows.sum())
    pooled = (q_rows + p_rows) / (m + n)
    pull = PULL_ROWS * bins
    q = (q_rows + pull * pooled) / (m + pull)
    p = (p_rows + pull * pooled) / (n + pull)
    log_ratio = np.log(p / q)
    spread = 1 / n + 1 / m
    variance = (
        _variance(p, log_ratio + 1 - q / p) / n + _variance(q, 1 - p / q - log_ratio) / m + 2 * (bins - 1) * spread**2
    )
    psi = float(((p - q) * log_ratio).sum()) - (bins - 1) * spread
    return Shift(max(0.0, psi), math.sqrt(variance))


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


def _variance(shares: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    mean = float((shares * values).sum())
    return max(0.0, float((shares * values**2).sum()) - mean**2)
