"""Which gates judge a rollout, and how sure they must be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from rollout.analysis.counts import LATENCY_EDGES_MS, SLO_EDGE_MS, LatencyScale
from rollout.analysis.drift import DriftGate
from rollout.analysis.rate_gates import Event, RelativeGate, RestartGate, SloGate

# A pass excludes twice stable's rate; 1.1 times is a difference too small to act on. The shares of alpha sum to 1.
_ERRORS: Final = RelativeGate("errors", share=0.25, margin=1.1, floor=0.001, pass_rate=0.005)
_REJECTIONS: Final = RelativeGate("rejected", share=0.1, margin=1.5, floor=0.01, pass_rate=0.05)
_LATENCY: Final = RelativeGate("slow", share=0.25, margin=1.1, floor=0.001, pass_rate=0.01)
_SLO_ERRORS: Final = SloGate("errors", share=0.1, limit=0.01)
_SLO_LATENCY: Final = SloGate("slow", share=0.1, limit=0.01)
_CALLER_ERRORS: Final = SloGate("errors", share=0.05, limit=0.01, seen_by="callers")
_CALLER_LATENCY: Final = SloGate("slow", share=0.05, limit=0.01, seen_by="callers")
_DRIFT: Final = DriftGate(share=0.1)


@dataclass(frozen=True, slots=True)
class GateConfig:
    """The gates and their error rates; None switches a gate off.

    `alpha` bounds the chance that a whole rollout of a canary as good as stable fails, `pass_alpha` the chance that a
    step passes a gate which the canary violates. A window is what the caller puts between two updates: one window
    alone, whatever it holds, never fails a canary.

    `pods_differ` is how much pods of one version are expected to differ: the median of the prior over the coefficient
    of variation of their rates. More of it costs power while there are few pods (docs/statistics.md has the curve).
    The events in `warm_up` are measured and not compared for the first `warm_up_s` of a pod under traffic: it is slow
    then. With `baseline` "fresh" the canary is compared only with pods of stable that started during the rollout.
    `slo_ms` is the latency objective, an edge of `latency_edges_ms`, the buckets that the service exports.
    """

    alpha: float = 0.05
    pass_alpha: float = 0.05
    pods_differ: float = 0.1
    warm_up_s: float = 60.0
    warm_up: tuple[Event, ...] = ("slow",)
    baseline: Literal["stable", "fresh"] = "stable"
    slo_ms: float = SLO_EDGE_MS
    latency_edges_ms: tuple[float, ...] = LATENCY_EDGES_MS
    errors: RelativeGate | None = _ERRORS
    rejections: RelativeGate | None = _REJECTIONS
    latency: RelativeGate | None = _LATENCY
    slo_errors: SloGate | None = _SLO_ERRORS
    slo_latency: SloGate | None = _SLO_LATENCY
    caller_errors: SloGate | None = _CALLER_ERRORS
    caller_latency: SloGate | None = _CALLER_LATENCY
    restarts: RestartGate | None = field(default_factory=RestartGate)
    drift: DriftGate | None = _DRIFT

    def __post_init__(self) -> None:
        """Refuse settings under which the promised error rates would not hold."""
        if not (0 < self.alpha < 1 and 0 < self.pass_alpha < 1):
            raise ValueError(f"alpha {self.alpha} and pass_alpha {self.pass_alpha}: both must lie between 0 and 1")
        if not 0.01 <= self.pods_differ <= 10:
            raise ValueError(f"pods_differ is {self.pods_differ}: a coefficient of variation between 0.01 and 10")
        if self.baseline not in ("stable", "fresh"):
            raise ValueError(f"baseline is {self.baseline!r}; allowed: stable, fresh")
        if not set(self.warm_up) <= {"errors", "rejected", "slow"}:
            raise ValueError(f"warm_up is {list(self.warm_up)}; allowed: errors, rejected, slow")
        if self.warm_up_s < 0:
            raise ValueError(f"warm_up_s is {self.warm_up_s}: 0 and more")
        shares = sum(gate.share for gate in (*self.rates.values(), self.drift) if gate)
        if shares > 1 + 1e-9:
            raise ValueError(f"the gates' shares of alpha sum to {shares:g}: at most 1")
        _ = self.scale

    @property
    def scale(self) -> LatencyScale:
        """The latency buckets and the objective among them."""
        return LatencyScale(self.latency_edges_ms, self.slo_ms)

    @property
    def rates(self) -> dict[str, RelativeGate | SloGate]:
        """The gates on rates that are switched on, in the order in which they are shown."""
        named = {
            "errors": self.errors,
            "rejections": self.rejections,
            "latency": self.latency,
            "slo_errors": self.slo_errors,
            "slo_latency": self.slo_latency,
            "caller_errors": self.caller_errors,
            "caller_latency": self.caller_latency,
        }
        return {name: gate for name, gate in named.items() if gate is not None}

    @property
    def gates(self) -> dict[str, RelativeGate | SloGate | RestartGate | DriftGate]:
        """All gates that are switched on, in the order in which they are shown."""
        return {
            **self.rates,
            **({"restarts": self.restarts} if self.restarts else {}),
            **({"drift": self.drift} if self.drift else {}),
        }
