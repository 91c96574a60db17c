"""The gate on a rate against stable's: whether the canary is worse than what it replaces."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rollout.counts import Counts
from rollout.rate_gate import RateGate, RateState, needs, percent
from rollout.sequential import relative_null
from rollout.verdict import GateResult, Verdict


@dataclass(frozen=True, slots=True)
class RelativeGate(RateGate):
    """The canary's rate against stable's in the same windows, so that load and time of day cancel out.

    Fails when the canary is shown to be worse than `margin` times stable and its rate is `floor` or more (four errors
    in a million requests are no reason to roll back). Passes when it is shown to be better than `pass_ratio` times
    stable, or below `pass_rate` outright: where errors are rare or absent a ratio has nothing to work with.
    """

    margin: float = 1.1
    floor: float = 0.001
    pass_ratio: float = 2.0
    pass_rate: float = 0.005
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse margins that contradict each other."""
        RateGate.__post_init__(self)
        if not 1 <= self.margin < self.pass_ratio:
            raise ValueError(f"margin {self.margin} and pass_ratio {self.pass_ratio}: 1 <= margin < pass_ratio")
        if not (0 <= self.floor < 1 and 0 < self.pass_rate < 1):
            raise ValueError(f"floor {self.floor} and pass_rate {self.pass_rate} are shares between 0 and 1")

    def take(self, state: RateState, stable: Counts, canary: Counts, *, cap: float) -> RateState:
        """Bet on one window: whose the events are, given how many requests each arm had."""
        mine, theirs = self.hits(canary), self.hits(stable)
        harmful = relative_null(canary.requests, stable.requests, self.margin)
        harmless = relative_null(canary.requests, stable.requests, self.pass_ratio)
        return RateState(
            state.harm.after(mine, theirs, harmful, cap=cap),
            state.ratio.after(mine, theirs, harmless),
            state.bound.after(mine, canary.requests - mine, self.pass_rate),
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
        """Say what the evidence shows; `before` is the canary in earlier steps, for the floor."""
        rate, base = self.rate(canary), self.rate(stable)
        wanted = -math.log(pass_alpha)
        seen = f"{self.seen(canary)}, {percent(base)} of {stable.requests:,} on stable"
        verdict, further = Verdict.INCONCLUSIVE, None
        if state.harm.evidence >= self.log_alarm(alpha) and self.rate(canary + before) >= self.floor:
            verdict = Verdict.FAIL
            why = f"worse than {self.margin:g}x stable (false alarm: {percent(alpha * self.share)})"
        elif state.bound.evidence >= wanted:
            verdict, why = Verdict.PASS, f"below {percent(self.pass_rate)} with {1 - pass_alpha:.0%} confidence"
        elif state.ratio.evidence >= wanted:
            verdict, why = Verdict.PASS, f"better than {self.pass_ratio:g}x stable with {1 - pass_alpha:.0%} confidence"
        else:
            further = self._further(state, stable, canary, wanted)
            why = f"{needs(further)} to tell" if further else "more requests alone will not tell"
        return GateResult(
            name, verdict, f"{seen}: {why}", further, value=rate, threshold=base * self.margin, dry_run=self.dry_run
        )

    def _further(self, state: RateState, stable: Counts, canary: Counts, wanted: float) -> int | None:
        rate, base = self.rate(canary), self.hits(stable) / canary.requests
        bound = state.bound.further(hits=rate, misses=1 - rate, p0=self.pass_rate, wanted=wanted)
        null = relative_null(canary.requests, stable.requests, self.pass_ratio)
        ratio = state.ratio.further(hits=rate, misses=base, p0=null, wanted=wanted)
        return min((count for count in (bound, ratio) if count is not None), default=None)
