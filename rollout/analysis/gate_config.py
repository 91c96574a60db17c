"""Which gates judge a rollout, and how sure they must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from rollout.analysis.drift import DriftGate
from rollout.analysis.rate_gates import RelativeGate, SloGate

# Twice stable is what the pass excludes; 1.1 is what nobody would be woken for. The shares of alpha sum to 1.
_ERRORS: Final = RelativeGate("errors", share=0.25, margin=1.1, floor=0.001, pass_rate=0.005)
_REJECTIONS: Final = RelativeGate("rejected", share=0.1, margin=1.5, floor=0.01, pass_rate=0.05)
_LATENCY: Final = RelativeGate("slow", share=0.25, margin=1.1, floor=0.001, pass_rate=0.01)
_SLO_ERRORS: Final = SloGate("errors", share=0.15, limit=0.01)
_SLO_LATENCY: Final = SloGate("slow", share=0.15, limit=0.01)
_DRIFT: Final = DriftGate(share=0.1)


@dataclass(frozen=True, slots=True)
class GateConfig:
    """The gates and their error rates; None switches a gate off.

    `alpha` bounds the chance that a whole rollout of a canary as good as stable fails, `pass_alpha` the chance that a
    step passes a gate which the canary violates. A window is what the caller puts between two updates: evidence from
    `spike_windows` windows alone, however strong, never fails a canary, so a spike holds and a sustained fault fails.
    """

    alpha: float = 0.05
    pass_alpha: float = 0.05
    spike_windows: int = 3
    errors: RelativeGate | None = _ERRORS
    rejections: RelativeGate | None = _REJECTIONS
    latency: RelativeGate | None = _LATENCY
    slo_errors: SloGate | None = _SLO_ERRORS
    slo_latency: SloGate | None = _SLO_LATENCY
    drift: DriftGate | None = _DRIFT

    def __post_init__(self) -> None:
        """Refuse settings under which the promised error rates would not hold."""
        if not (0 < self.alpha < 1 and 0 < self.pass_alpha < 1):
            raise ValueError(f"alpha {self.alpha} and pass_alpha {self.pass_alpha}: both must lie between 0 and 1")
        if self.spike_windows < 1:
            raise ValueError(f"spike_windows is {self.spike_windows}: at least 1")
        shares = sum(gate.share for gate in (*self.rates.values(), self.drift) if gate)
        if shares > 1 + 1e-9:
            raise ValueError(f"the gates' shares of alpha sum to {shares:g}: at most 1")

    @property
    def rates(self) -> dict[str, RelativeGate | SloGate]:
        """The gates on rates that are switched on, in the order in which they are shown."""
        named = {
            "errors": self.errors,
            "rejections": self.rejections,
            "latency": self.latency,
            "slo_errors": self.slo_errors,
            "slo_latency": self.slo_latency,
        }
        return {name: gate for name, gate in named.items() if gate is not None}

    @property
    def gates(self) -> dict[str, RelativeGate | SloGate | DriftGate]:
        """All gates that are switched on, in the order in which they are shown."""
        return {**self.rates, **({"drift": self.drift} if self.drift else {})}

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> GateConfig:
        """Lay settings over the defaults: `{"errors": {"margin": 1.2}, "drift": None}` changes one and drops one.

        Also reads what dataclasses.asdict makes of a config. Raises ValueError that names what is allowed.
        """
        default = cls()
        for name in data:
            _known(name, default, "the gates")
        return replace(default, **{name: _changed(name, getattr(default, name), value) for name, value in data.items()})


def _changed(name: str, current: Any, value: Any) -> Any:
    """Lay one gate's settings over its defaults; numbers and null are taken as they are."""
    if isinstance(current, (int, float)):
        if isinstance(value, (int, float)):
            return value
        raise ValueError(f"gates: {name} is {value!r}; a number is wanted")
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"gates: {name} is {value!r}; settings are wanted, or null to switch the gate off")
    for key in value:
        _known(key, current, f"gate {name}")
    event = getattr(current, "event", None)
    if value.get("event", event) != event:
        raise ValueError(f"gate {name}: event is {value['event']!r}; it always is {event!r}")
    return replace(current, **value)


def _known(name: str, owner: Any, where: str) -> None:
    allowed = [item.name for item in fields(owner)]
    if name not in allowed:
        raise ValueError(f"{where} have no setting {name!r}; allowed: {', '.join(allowed)}")
