"""Where a rollout stands: all that survives the promoter, as annotation.py writes it to the SeldonDeployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rollout.plan import Plan


class Phase(StrEnum):
    """The named phases of a rollout."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    PAUSED = "Paused"
    HELD = "Held"
    BAKING = "Baking"
    FINISHING = "Finishing"
    SUCCEEDED = "Succeeded"
    ROLLING_BACK = "RollingBack"
    ROLLED_BACK = "RolledBack"
    FAILED = "Failed"

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self in (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED)

    @property
    def resting(self) -> bool:
        """Whether the rollout stands still until the cause goes away or a person speaks."""
        return self in (Phase.PAUSED, Phase.HELD)


class Command(StrEnum):
    """What a person asks of a rollout that another process drives."""

    PAUSE = "pause"
    PROMOTE = "promote"
    PROMOTE_FULL = "promote-full"
    ABORT = "abort"
    ADOPT = "adopt"


@dataclass(frozen=True, slots=True)
class Timers:
    """Seconds that the promoter itself watched, so neither a wrong clock nor a sleeping laptop can fill them.

    step_s: at this step with its weights in the mesh. pending_s: waiting for the canary to be ready at 0 %.
    unready_s: since the canary was last ready. lag_s: since the mesh last had the weights. outage_s: since the
    evidence last came. resting_s: since the rollout was held or paused.
    """

    step_s: float = 0.0
    pending_s: float = 0.0
    unready_s: float = 0.0
    lag_s: float = 0.0
    outage_s: float = 0.0
    resting_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout. step: -1 while the canary waits at 0 %, else the index in plan.steps.

    canary_requests, stable_requests: in this step. gate_open: the step's manual gate was opened. evidence: the
    sequential tests, as gates.py serialises them. expected: a fingerprint per predictor, as this rollout left it.
    nonce: "<writer>.<count>", the last write's own. fence: the lease's transitions when it was written.
    """

    id: str
    plan: Plan
    stable: str
    canary: str
    phase: Phase = Phase.PENDING
    step: int = -1
    timers: Timers = field(default_factory=Timers)
    canary_requests: int = 0
    stable_requests: int = 0
    gate_open: bool = False
    analyse: bool = True
    evidence: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    rung: str = ""
    started_at_s: float = 0.0
    updated_at_s: float = 0.0
    fence: int = 0
    nonce: str = ""

    @property
    def canary_percent(self) -> int:
        """The canary's weight that this state asks for."""
        if self.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED) or self.step < 0:
            return 0
        return self.plan.steps[self.step].weight_percent

    @property
    def weights(self) -> dict[str, int]:
        """Percent per predictor that this state asks for; always 100 together."""
        if self.phase in (Phase.FINISHING, Phase.SUCCEEDED):
            return {self.canary: 100}
        return {self.stable: 100 - self.canary_percent, self.canary: self.canary_percent}

    @property
    def active_phase(self) -> Phase:
        """The phase to return to when a rest ends."""
        if self.step < 0:
            return Phase.PENDING
        return Phase.BAKING if self.step == self.plan.last else Phase.PROGRESSING

    @property
    def writer(self) -> str:
        """The promoter that wrote this."""
        return self.nonce.partition(".")[0]

    def but(self, **changes: Any) -> RolloutState:
        """Return a copy with these fields replaced."""
        return replace(self, **changes)

    def running(self) -> RolloutState:
        """Return the state without its rest."""
        return self.but(phase=self.active_phase)

    def at_step(self, step: int) -> RolloutState:
        """Return the state at the beginning of a step: its time and its requests count anew, its gate is closed."""
        begun = self.but(step=step, timers=Timers(), canary_requests=0, stable_requests=0, gate_open=False)
        return begun.running()
