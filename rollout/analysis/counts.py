"""What a predictor has done, as counters: what evidence, gates and report exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

LATENCY_EDGES_MS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 250.0, 1000.0)
"""Upper edges of the service's latency buckets; one more bucket holds what is slower than the last edge."""
LATENCY_BUCKETS: Final = len(LATENCY_EDGES_MS) + 1
SLO_EDGE_MS: Final = 50.0
"""The latency objective unless the gates say otherwise: a bucket edge, so "slower" is counted, never interpolated."""
SLO_BUCKET: Final = LATENCY_EDGES_MS.index(SLO_EDGE_MS) + 1
SCORE_BINS: Final = 20
"""The bins of a probability. A service says its own in its histogram: one for each class, or those of a value."""


@dataclass(frozen=True, slots=True)
class LatencyScale:
    """The upper edges of a service's latency buckets, growing, and the objective, which is one of them."""

    edges_ms: tuple[float, ...] = LATENCY_EDGES_MS
    slo_ms: float = SLO_EDGE_MS

    def __post_init__(self) -> None:
        """Refuse edges that do not grow, and an objective that could only be interpolated."""
        if not self.edges_ms or list(self.edges_ms) != sorted(set(self.edges_ms)) or self.edges_ms[0] <= 0:
            raise ValueError(f"latency_edges_ms are {list(self.edges_ms)}; growing numbers above 0 are wanted")
        if self.slo_ms not in self.edges_ms:
            allowed = ", ".join(f"{edge:g}" for edge in self.edges_ms)
            raise ValueError(f"slo_ms is {self.slo_ms:g}; it must be an edge of the latency buckets: {allowed}")

    @property
    def slo_bucket(self) -> int:
        """The first bucket that is slower than the objective."""
        return self.edges_ms.index(self.slo_ms) + 1


@dataclass(frozen=True, slots=True)
class Counts:
    """Cumulative counters of one pod, or of a predictor, since its source's origin; corrected for counter resets.

    `rejected` are answers 400-499, `errors` 500 and above, `slow` those slower than the objective; all three are part
    of `requests`. `scores` [bins] counts scored rows, `latency` [edges + 1] requests; neither is cumulative over
    its bins. `restarts` and `oom_kills` count containers. The difference of two is a window. A later value smaller than
    an earlier one is a ValueError.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    latency: tuple[int, ...] = (0,) * LATENCY_BUCKETS
    rejected: int = 0
    restarts: int = 0
    oom_kills: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that cannot be: the wrong number of bins, or fewer than none."""
        if not self.scores or len(self.latency) < 2:
            raise ValueError(
                f"got {len(self.scores)} score bins and {len(self.latency)} latency buckets; "
                "1 or more and 2 or more are wanted"
            )
        numbers = (self.requests, self.errors, self.slow, self.rejected, self.restarts, self.oom_kills)
        if min(*numbers, *self.scores, *self.latency) < 0:
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
            scores=tuple(a + sign * b for a, b in zip(*_same_bins(self.scores, other.scores), strict=True)),
            latency=tuple(a + sign * b for a, b in zip(*_same_bins(self.latency, other.latency), strict=True)),
            rejected=self.rejected + sign * other.rejected,
            restarts=self.restarts + sign * other.restarts,
            oom_kills=self.oom_kills + sign * other.oom_kills,
        )

    @classmethod
    def of_latency(
        cls,
        latency: Sequence[int],
        *,
        errors: int = 0,
        rejected: int = 0,
        scores: Sequence[int] = (0,) * SCORE_BINS,
        slo_bucket: int = SLO_BUCKET,
    ) -> Counts:
        """Make counts whose `requests` and `slow` follow from the latency buckets."""
        return cls(
            requests=sum(latency),
            errors=errors,
            slow=sum(latency[slo_bucket:]),
            scores=tuple(scores),
            latency=tuple(latency),
            rejected=rejected,
        )


ZERO: Final = Counts()


@dataclass(frozen=True, slots=True)
class Arm:
    """What one predictor has done: each pod's own counts, and the callers' view of it where there is one.

    mesh: as the gateway counted it, with what never reached a pod (resets, refused connections, the mesh's own 503).
    Pods that went stay, with what they did.
    """

    pods: Mapping[str, Counts] = field(default_factory=dict)
    mesh: Counts | None = None

    @classmethod
    def of(cls, counts: Counts, *, pod: str = "pod") -> Arm:
        """Make a predictor of one pod."""
        return cls({pod: counts})

    @property
    def total(self) -> Counts:
        """All pods together."""
        total = ZERO
        for counts in self.pods.values():
            total += counts
        return total

    def __sub__(self, earlier: Arm) -> Arm:
        """Return what happened between an earlier sample and this one; a pod that is new counts from zero."""
        mesh = None
        if self.mesh is not None and earlier.mesh is not None:
            mesh = self.mesh - earlier.mesh
        return Arm({pod: counts - earlier.pods.get(pod, ZERO) for pod, counts in self.pods.items()}, mesh)


def _same_bins(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Let counts without any request join those of a service with other bins."""
    if len(a) != len(b):
        if not any(a):
            return (0,) * len(b), b
        if not any(b):
            return a, (0,) * len(a)
        raise ValueError(f"counts with {len(a)} and with {len(b)} bins do not add up")
    return a, b
