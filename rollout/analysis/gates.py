"""The gates of a rollout: windows of counts in, verdicts with their reasons out; pure, and safe to ask at any time.

Two kinds of evidence are kept per gate. *Harm* runs through the whole rollout, so `alpha` bounds the chance that a
canary as good as stable is ever rolled back; it is split over the gates by their `share` (Bonferroni). *Proof* of
being good starts anew with each step, since a canary may be fine at 10 % and not at 50 %. All gates must pass, so a
bad canary is promoted only if the gate that it violates is wrong: `pass_alpha` needs no split (an intersection-union
test, Berger 1982).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rollout.analysis.counts import ZERO, Counts
from rollout.analysis.drift import DriftState
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.rate_gates import RateState, RelativeGate
from rollout.analysis.verdict import GateResult, Verdict


@dataclass(frozen=True, slots=True)
class GateState:
    """All evidence so far: small, and the same test goes on after `from_json(to_json())`.

    `stable` and `canary` are the counts of this step, `canary_before` those of the steps before.
    """

    stable: Counts = ZERO
    canary: Counts = ZERO
    canary_before: Counts = ZERO
    rates: Mapping[str, RateState] = field(default_factory=dict)
    drift: DriftState = field(default_factory=DriftState)

    def next_step(self) -> GateState:
        """Begin a step: harm is remembered, proof starts anew."""
        return GateState(
            canary_before=self.canary_before + self.canary,
            rates={name: rate.next_step() for name, rate in self.rates.items()},
            drift=self.drift.next_step(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, lists and dicts, about 3 kB of JSON."""
        return {
            "stable": self.stable.to_json(),
            "canary": self.canary.to_json(),
            "canary_before": self.canary_before.to_json(),
            "rates": {name: rate.to_json() for name, rate in self.rates.items()},
            "drift": self.drift.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GateState:
        """Read what `to_json` wrote."""
        return cls(
            stable=Counts.from_json(data["stable"]),
            canary=Counts.from_json(data["canary"]),
            canary_before=Counts.from_json(data["canary_before"]),
            rates={name: RateState.from_json(rate) for name, rate in data["rates"].items()},
            drift=DriftState.from_json(data["drift"]),
        )


def update(
    config: GateConfig,
    state: GateState,
    stable_window: Counts | None,
    canary_window: Counts | None,
    *,
    compare: bool = True,
) -> tuple[GateState, tuple[GateResult, ...]]:
    """Take in one window of both arms and return the new state with every gate's answer.

    None is a predictor without data. With `compare` False (no traffic goes to stable, by plan: the last step and the
    bake) only the absolute gates answer; the others have nothing to compare with and are left out.
    """
    stable, canary = stable_window or ZERO, canary_window or ZERO
    state = replace(state, stable=state.stable + stable, canary=state.canary + canary)
    rates, results = dict(state.rates), []
    for name, gate in config.rates.items():
        relative = isinstance(gate, RelativeGate)
        if relative and not compare:
            continue
        cap = gate.log_alarm(config.alpha) / config.spike_windows
        missing = _missing(state, stable_window, canary_window, compare=relative)
        rates[name] = gate.take(rates.get(name, RateState()), stable, canary, cap=cap)
        results.append(
            GateResult(name, Verdict.NO_DATA, missing, dry_run=gate.dry_run)
            if missing
            else gate.judge(
                name, rates[name], state.stable, state.canary, state.canary_before, config.alpha, config.pass_alpha
            )
        )
    drift = state.drift
    if config.drift and compare:
        missing = _missing(state, stable_window, canary_window, compare=True)
        drift = config.drift.take(drift, state.stable, state.canary)
        results.append(
            GateResult("drift", Verdict.NO_DATA, missing, dry_run=config.drift.dry_run)
            if missing
            else config.drift.judge(drift, state.stable, state.canary, config.alpha, config.pass_alpha)
        )
    return replace(state, rates=rates, drift=drift), tuple(results)


def blank(config: GateConfig, verdict: Verdict, reason: str) -> tuple[GateResult, ...]:
    """Return the same answer for every gate: how a source that is down (no data) or wrong (error) is recorded."""
    return tuple(GateResult(name, verdict, reason, dry_run=gate.dry_run) for name, gate in config.gates.items())


def _missing(state: GateState, stable: Counts | None, canary: Counts | None, *, compare: bool) -> str:
    """Say which arm has no data, or return the empty string."""
    arms = {"the canary": (canary, state.canary), **({"stable": (stable, state.stable)} if compare else {})}
    for arm, (window, total) in arms.items():
        if window is None:
            return f"{arm} has no series at the metric source"
        if total.requests == 0:
            return f"{arm} has had no request in this step"
    return ""
