"""What every gate on the rate of an event shares: the event, its words, and the evidence that is kept of it.

The gate on a rate against stable's: whether the canary is worse than what it replaces.

The gate on a rate against an objective: whether the canary keeps what callers were promised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rollout.analysis.counts import SLO_EDGE_MS, Counts
from rollout.analysis.sequential import Alarm, Proof, relative_null
from rollout.analysis.verdict import GateResult, Verdict

Event = Literal["errors", "rejected", "slow"]
_WORDS: Final[Mapping[Event, str]] = {
    "errors": "answers were errors (5xx)",
    "rejected": "requests were rejected (4xx)",
    "slow": f"answers took longer than {SLO_EDGE_MS:g} ms",
}


@dataclass(frozen=True, slots=True)
class RateState:
    """The evidence of one gate: harm so far in the rollout, proof so far in the step.

    `ratio` bets on "less than pass_ratio times stable", `bound` on "less than an absolute rate".
    """

    harm: Alarm = field(default_factory=Alarm)
    ratio: Proof = field(default_factory=Proof)
    bound: Proof = field(default_factory=Proof)

    def next_step(self) -> RateState:
        """Keep the harm, drop the proof."""
        return RateState(harm=self.harm)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists."""
        return {
            "windows": self.harm.windows,
            "harm": list(self.harm.log_wealth),
            "ratio": list(self.ratio.log_wealth),
            "bound": list(self.bound.log_wealth),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RateState:
        """Read what `to_json` wrote."""
        return cls(
            Alarm(tuple(data["harm"]), int(data["windows"])), Proof(tuple(data["ratio"])), Proof(tuple(data["bound"]))
        )


@dataclass(frozen=True, slots=True)
class RateGate:
    """What both kinds share: the event that is counted and the part of alpha that is spent on it."""

    event: Event
    share: float

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        if not 0 < self.share <= 1:
            raise ValueError(f"the share of alpha is {self.share}: more than 0, at most 1")

    def log_alarm(self, alpha: float) -> float:
        """Return the log-wealth at which harm is proven."""
        return -math.log(alpha * self.share)

    def hits(self, counts: Counts) -> int:
        """Return how often the event happened."""
        return int(getattr(counts, self.event))

    def rate(self, counts: Counts) -> float:
        """Return the event's share of the requests, 0 without any."""
        return self.hits(counts) / counts.requests if counts.requests else 0.0

    def seen(self, counts: Counts) -> str:
        """Say how often the event happened."""
        return f"{percent(self.rate(counts))} of {counts.requests:,} {_WORDS[self.event]}"


def percent(share: float) -> str:
    """Write a share of requests for a person."""
    return f"{100 * share:.3g} %"


def needs(requests: int) -> str:
    """Say how many requests an undecided gate still wants."""
    return f"needs about {requests:,} more canary requests"


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
