"""Tests that may be looked at after every window: bets on counts, whose wealth is the evidence.

For hits and misses with P(hit) = p0 under the null, the wealth of the bet 1 + lambda*(X - p0), lambda = c/p0, grows by
1 + c*(1 - p0)/p0 on a hit and by 1 - c on a miss. Under the null it is a non-negative supermartingale from 1, so it
ever reaches 1/alpha with probability alpha at most (Ville), however often somebody looks; that stays true for the
average over a grid of c, because an average of such processes is one too (Waudby-Smith and Ramdas 2024, "Estimating
means of bounded random variables by betting"; Ramdas et al. 2023, "Game-theoretic statistics").

All wealth is kept as logarithms, finite and serialisable: a restarted promoter goes on with the same test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# The best c is (p0 - p1)/p0. With no hit at all 0.99 is the best, and costs next to nothing over the rule of three.
PROOF_GRID: Final = (0.2, 0.4, 0.6, 0.8, 0.99)


@dataclass(frozen=True, slots=True)
class Proof:
    """The evidence that hits are *less* frequent than p0: the reverse bet, which is what allows a promotion.

    Without a single hit the wealth is about (1 - p0)**-n / len(PROOF_GRID): the rule of three, valid at any time.
    """

    log_wealth: tuple[float, ...] = (0.0,) * len(PROOF_GRID)

    def after(self, hits: int, misses: int, p0: float) -> Proof:
        """Return the evidence after one more window."""
        if hits + misses == 0 or not 0 < p0 < 1:
            return self
        odds = p0 / (1 - p0)
        return Proof(
            tuple(
                wealth + hits * math.log1p(-c) + misses * math.log1p(c * odds)
                for c, wealth in zip(PROOF_GRID, self.log_wealth, strict=True)
            )
        )

    @property
    def evidence(self) -> float:
        """The log-wealth of the whole bet; at log(1/alpha) the null is rejected."""
        return _log_mean(self.log_wealth)

    def further(self, *, hits: float, misses: float, p0: float, wanted: float) -> int | None:
        """Return how many more requests it takes to reach the `wanted` log-wealth, if things go on as now.

        `hits` and `misses` are expected events for one request; None when the evidence does not grow at that rate.
        """
        if not 0 < p0 < 1:
            return None
        odds, short = p0 / (1 - p0), wanted + math.log(len(PROOF_GRID))
        growth = [hits * math.log1p(-c) + misses * math.log1p(c * odds) for c in PROOF_GRID]
        waits = [(short - wealth) / rate for wealth, rate in zip(self.log_wealth, growth, strict=True) if rate > 0]
        return max(1, math.ceil(min(waits))) if waits else None


def relative_null(canary_requests: int, stable_requests: int, ratio: float) -> float:
    """Return the chance that an event is the canary's if its rate is `ratio` times the stable one's."""
    weighted = ratio * canary_requests
    return weighted / (weighted + stable_requests) if weighted else 0.0


def _log_mean(logs: tuple[float, ...]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(log - top) for log in logs) / len(logs))
