"""The gate on a rate against an objective: whether the canary keeps what callers were promised."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rollout.counts import Counts
from rollout.rate_gate import RateGate, RateState, needs, percent
from rollout.verdict import GateResult, Verdict


@dataclass(frozen=True, slots=True)
class SloGate(RateGate):
    """The canary's rate against an objective, whatever stable does: it fires too when both arms degrade.

    Fails when the rate is shown to exceed `limit`. Passes when it is shown to be below, which takes 299 requests at
    least for a P99 (0.99**299 < 0.05) and 404 by this bet; or, since a service close to its objective would wait for
    ever, when the estimate is within the limit after `settled_requests`, where the alarm has had its chance.
    """

    limit: float = 0.01
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse a limit that is no share."""
        RateGate.__post_init__(self)
        if not 0 < self.limit < 1:
            raise ValueError(f"the limit is {self.limit}: a share between 0 and 1")

    def settled_requests(self, pass_alpha: float) -> int:
        """Return the sample at which the estimate itself is taken: ten times the rule of three."""
        return math.ceil(-10 * math.log(pass_alpha) / self.limit)

    def take(self, state: RateState, stable: Counts, canary: Counts, *, cap: float) -> RateState:
        """Bet on one window of the canary alone."""
        hits = self.hits(canary)
        misses = canary.requests - hits
        return RateState(
            state.harm.after(hits, misses, self.limit, cap=cap), bound=state.bound.after(hits, misses, self.limit)
        )

    def judge(
        self,
        name: str,
        state: RateState,
        stable: Counts,
        canary: Counts,
        before: Counts,
        alpha: float,
        pass_alpha: float,
    ) -> GateResult:
        """Say what the evidence shows about the canary alone."""
        rate, wanted, settled = self.rate(canary), -math.log(pass_alpha), self.settled_requests(pass_alpha)
        verdict, further = Verdict.INCONCLUSIVE, None
        if state.harm.evidence >= self.log_alarm(alpha):
            verdict = Verdict.FAIL
            why = f"more than {percent(self.limit)} (false alarm: {percent(alpha * self.share)})"
        elif state.bound.evidence >= wanted:
            verdict, why = Verdict.PASS, f"below {percent(self.limit)} with {1 - pass_alpha:.0%} confidence"
        elif rate <= self.limit and canary.requests >= settled:
            verdict, why = Verdict.PASS, f"within {percent(self.limit)} after {settled:,} requests"
        else:
            waits = [state.bound.further(hits=rate, misses=1 - rate, p0=self.limit, wanted=wanted)]
            if rate <= self.limit:
                waits.append(settled - canary.requests)
            further = min((count for count in waits if count is not None), default=None)
            why = (
                f"{needs(further)} to be sure of {percent(self.limit)}"
                if further
                else "above the limit, not yet surely"
            )
        reason = f"{self.seen(canary)}: {why}"
        return GateResult(name, verdict, reason, further, value=rate, threshold=self.limit, dry_run=self.dry_run)
