"""What a predictor has done, as counters: the one currency between evidence, gates and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LATENCY_EDGES_MS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 250.0, 1000.0)
"""Upper edges of the service's latency buckets; one more bucket holds what is slower than the last edge."""
LATENCY_BUCKETS: Final = len(LATENCY_EDGES_MS) + 1
SLO_EDGE_MS: Final = 50.0
"""The latency objective. It is a bucket edge, so "slower than the objective" is counted, never interpolated."""
SLO_BUCKET: Final = LATENCY_EDGES_MS.index(SLO_EDGE_MS) + 1
SCORE_BINS: Final = 20
"""Equal bins of the score over 0..1."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Cumulative counters of one predictor since its source's origin, already corrected for counter resets.

    `rejected` are answers 400-499, `errors` 500 and above, `slow` those slower than SLO_EDGE_MS; all three are part of
    `requests`. `scores` [SCORE_BINS] counts scored rows, `latency` [LATENCY_BUCKETS] requests; neither is cumulative
    over its bins. The difference of two is a window. A later value smaller than an earlier one is a ValueError.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    latency: tuple[int, ...] = (0,) * LATENCY_BUCKETS
    rejected: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that cannot be: the wrong number of bins, or fewer than none."""
        if len(self.scores) != SCORE_BINS or len(self.latency) != LATENCY_BUCKETS:
            raise ValueError(
                f"got {len(self.scores)} score bins and {len(self.latency)} latency buckets; "
                f"{SCORE_BINS} and {LATENCY_BUCKETS} are wanted"
            )
        if min(self.requests, self.errors, self.slow, self.rejected, *self.scores, *self.latency) < 0:
            raise ValueError(f"counts are below zero, so a later sample was smaller than an earlier one: {self}")

    def __add__(self, other: Counts) -> Counts:
        """Join two pods of a predictor, or two windows."""
        return self._combine(other, 1)

    def __sub__(self, earlier: Counts) -> Counts:
        """Return what happened between an earlier sample of the same source and this one."""
        return self._combine(earlier, -1)

    def _combine(self, other: Counts, sign: int) -> Counts:
        return Counts(
            requests=self.requests + sign * other.requests,
            errors=self.errors + sign * other.errors,
            slow=self.slow + sign * other.slow,
            scores=tuple(a + sign * b for a, b in zip(self.scores, other.scores, strict=True)),
            latency=tuple(a + sign * b for a, b in zip(self.latency, other.latency, strict=True)),
            rejected=self.rejected + sign * other.rejected,
        )

    @classmethod
    def of_latency(
        cls, latency: Sequence[int], *, errors: int = 0, rejected: int = 0, scores: Sequence[int] = (0,) * SCORE_BINS
    ) -> Counts:
        """Make counts whose `requests` and `slow` follow from the latency buckets."""
        return cls(
            requests=sum(latency),
            errors=errors,
            slow=sum(latency[SLO_BUCKET:]),
            scores=tuple(scores),
            latency=tuple(latency),
            rejected=rejected,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists, for the log."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "rejected": self.rejected,
            "slow": self.slow,
            "latency": list(self.latency),
            "scores": list(self.scores),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        """Read what `to_json` wrote."""
        numbers = {name: int(data[name]) for name in ("requests", "errors", "rejected", "slow")}
        return cls(**numbers, latency=tuple(data["latency"]), scores=tuple(data["scores"]))


ZERO: Final = Counts()
