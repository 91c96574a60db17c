"""How long a run of the comparison takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Durations:
    """How many rounds, and how long each part of one takes, in seconds; 0 leaves the part out."""

    rounds: int = 3
    warmup_s: float = 1.0
    closed_s: float = 5.0
    open_s: float = 10.0
    trial_s: float = 3.0
    confirm_s: float = 6.0


QUICK = Durations(rounds=1, warmup_s=0.0, closed_s=1.0, open_s=0.0, trial_s=0.0)
