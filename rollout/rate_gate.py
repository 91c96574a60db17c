"""What every gate on the rate of an event shares: the event, its words, and the evidence that is kept of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rollout.counts import SLO_EDGE_MS, Counts
from rollout.sequential import Alarm, Proof

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
