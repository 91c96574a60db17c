"""The gate on score drift: whether the canary's scores look like another population's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any, Final

from rollout.counts import Counts
from rollout.drift import Shift, shift
from rollout.verdict import GateResult, Verdict

LOOK_GROWTH: Final = 1.25
"""The sample grows by this factor between two looks."""


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

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        seen = None if self.seen is None else [self.seen.bits, self.seen.deviation]
        return {"looks": self.looks, "rows": self.rows, "seen": seen}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DriftState:
        """Read what `to_json` wrote."""
        seen = None if data["seen"] is None else Shift(*data["seen"])
        return cls(int(data["looks"]), float(data["rows"]), seen)


@dataclass(frozen=True, slots=True)
class DriftGate:
    """How far the canary's scores are from stable's, by size and not by significance: a new model *should* differ.

    `threshold` is a Jensen-Shannon divergence in bits; 0.045 is the PSI's customary 0.25.

    Fails when even the lower end of the interval exceeds `threshold`, passes when even the upper end is below, and is
    inconclusive between. An interval may not be looked at freely, so looks are spaced (the sample grows by LOOK_GROWTH)
    and look k spends alpha / (k * (k + 1)), which sums to alpha. Only rows of one step are pooled: with other weights
    the arms would sample the hours of the day differently, and drift that is none would show.
    """

    share: float = 0.1
    threshold: float = 0.045
    min_rows: int = 200
    dry_run: bool = False

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
        verdict, further, why = Verdict.INCONCLUSIVE, None, f"the interval holds {self.threshold:g}"
        if low > self.threshold:
            verdict, why = Verdict.FAIL, f"another population: even the lower end exceeds {self.threshold:g}"
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
        )


def _independent(counts: Counts) -> Sequence[float]:
    """Return the score histogram with as many rows as requests at most.

    The rows of one batch come from one caller and resemble each other; a request counts as one observation.
    """
    rows, answered = sum(counts.scores), counts.requests - counts.errors - counts.rejected
    weight = min(1.0, answered / rows) if rows else 1.0
    return [weight * count for count in counts.scores]
