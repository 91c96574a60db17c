"""Where a rollout stands: all that survives the promoter, as annotation.py writes it to the SeldonDeployment.

The annotations of the SeldonDeployment that a rollout lives in: its state, a person's word, the version before.

The state is written in the same patch as the weights, so the two never disagree; every write carries a new nonce and a
`test` for the text that was read, so a promoter that was overtaken is refused by the API server itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rollout.errors import PlanError, StateError
from rollout.plan.plan import Plan

PREFIX = "rollout.churn-serving"
STATE = f"{PREFIX}/state"
PREVIOUS = f"{PREFIX}/previous"
COMMAND = f"{PREFIX}/command"
SCHEMA = 1


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


def plain_json(data: Mapping[str, Any]) -> str:
    r"""Return compact JSON without a character that two JSON writers escape differently.

    An API server compares the strings of a `test` byte by byte, in the form in which Go wrote them: there `<` is
    \u003c, and a letter beyond ASCII is itself, where Python writes it the other way round.
    """
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode(state: RolloutState) -> str:
    """Return the annotation's text."""
    data = {name: getattr(state, name) for name in state.__slots__ if name not in ("plan", "timers")}
    return plain_json(
        {
            "schema": SCHEMA,
            "plan_hash": state.plan.hash,
            "plan": state.plan.to_json(),
            "timers": {name: round(getattr(state.timers, name), 3) for name in Timers.__slots__},
        }
        | data
    )


def decode(text: str) -> RolloutState:
    """Read what `encode` wrote. Raises StateError."""
    try:
        data = json.loads(text)
        if data.pop("schema") != SCHEMA:
            raise StateError(f"the annotation {STATE} was written by another release of this program")
        plan = Plan.from_json(data.pop("plan"))
        recorded = data.pop("plan_hash")
        if plan.hash != recorded:
            raise StateError(f"the plan in {STATE} was edited: its hash is {plan.hash}, {recorded} was recorded")
        return RolloutState(**data | {"plan": plan, "timers": Timers(**data["timers"]), "phase": Phase(data["phase"])})
    except (PlanError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(
            f"the annotation {STATE} cannot be read: {error}; put back what was there, or remove it to forget the "
            "rollout (the weights then stay as they are)"
        ) from error


def read_state(annotations: Mapping[str, str]) -> RolloutState | None:
    """Return the rollout that the annotations describe, or None. Raises StateError when it cannot be read."""
    text = annotations.get(STATE)
    return None if text is None else decode(text)
