"""The state of a rollout: all that survives the promoter, as an annotation of its SeldonDeployment.

The state is written in the same patch as the weights, so the two never disagree. Every write carries a new nonce and a
`test` for the text that was read, so the API server itself refuses a promoter whose rollout was taken over.

Two more annotations belong to a rollout: a person's command, and the predictor that the rollout replaced.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AliasChoices, Field, PlainSerializer, TypeAdapter

from rollout.errors import PlanError, StateError
from rollout.manifest.seldon import SeldonDeployment
from rollout.plan.plan import Plan, plan_hash

PREFIX = "rollout.churn-serving"
STATE = f"{PREFIX}/state"
PREVIOUS = f"{PREFIX}/previous"
COMMAND = f"{PREFIX}/command"
SCHEMA = 1

Seconds = Annotated[float, PlainSerializer(lambda value: round(value, 3))]


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
    def on_hold(self) -> bool:
        """Whether the weights stay until the cause goes away or a person decides."""
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
    """Seconds that the promoter itself observed, so neither a wrong clock nor a sleeping laptop adds to them.

    step_s: at this step with its weights in the mesh. pending_s: waiting for the canary to be ready at 0 %.
    unready_s: since the canary was last ready. lag_s: since the mesh last had the weights. outage_s: since the
    evidence last came. on_hold_s: since the rollout was held or paused. scaling_s: since pods were asked for.
    flapping_s: all the time for which the canary was unready, less a tenth of the time for which it was ready.
    """

    step_s: Seconds = 0.0
    pending_s: Seconds = 0.0
    unready_s: Seconds = 0.0
    lag_s: Seconds = 0.0
    outage_s: Seconds = 0.0
    on_hold_s: Annotated[Seconds, Field(validation_alias=AliasChoices("on_hold_s", "resting_s"))] = 0.0
    scaling_s: Seconds = 0.0
    flapping_s: Seconds = 0.0


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout. step: -1 while the canary waits at 0 %, else the index in plan.steps.

    canary_requests, stable_requests: in this step. gate_open: the step's manual gate was opened. requested: a person's
    `pause` or `promote --full` that is in force or waits until it can be done. evidence: the sequential tests, as
    gates.py serialises them. stable_pods: how many of stable's pods were ready when the rollout began, and served all
    requests. scaling: what is given back at the end, see capacity.py. expected: a fingerprint per predictor, as this
    rollout left it. rollback_stage: what brought the requests back. nonce: "<writer>.<count>" of the last write.
    fence: the lease's transitions at that time.
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
    requested: Command | None = None
    analyse: bool = True
    evidence: Mapping[str, Any] = field(default_factory=dict)
    stable_pods: int = 0
    scaling: Mapping[str, dict[str, int | None]] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    rollback_stage: Annotated[str, Field(validation_alias=AliasChoices("rollback_stage", "rung"))] = ""
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
        """The phase to return to when a hold or a pause ends."""
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
        """Return the state without its hold or pause."""
        return self.but(phase=self.active_phase)

    def at_step(self, step: int) -> RolloutState:
        """Return the state at the beginning of a step: its time and its requests count anew, its gate is closed."""
        timers = Timers(flapping_s=self.timers.flapping_s)
        begun = self.but(step=step, timers=timers, canary_requests=0, stable_requests=0, gate_open=False)
        return begun.running()


_JSON: Final = TypeAdapter(RolloutState)


def plain_json(data: Mapping[str, Any]) -> str:
    r"""Return compact JSON without a character that two JSON writers escape differently.

    An API server compares the strings of a `test` byte by byte, in the form in which Go wrote them: there `<` is
    \u003c, and a letter beyond ASCII is itself, where Python writes it the other way round.
    """
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode(state: RolloutState) -> str:
    """Return the annotation's text."""
    return plain_json({"schema": SCHEMA, "plan_hash": state.plan.hash, **_JSON.dump_python(state, mode="json")})


def decode(text: str) -> RolloutState:
    """Read what `encode` wrote. Raises StateError."""
    try:
        data = json.loads(text)
        if data.pop("schema") != SCHEMA:
            raise StateError(f"the annotation {STATE} was written by another release of this program; {_WAY_BACK}")
        recorded, found = data.pop("plan_hash"), plan_hash(data["plan"])
        if (data["phase"], data["reason"]) == (Phase.PAUSED, "Paused"):  # before `requested`, that was a person's pause
            data.setdefault("requested", Command.PAUSE)
        state = _JSON.validate_python(data)
    except (PlanError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"the annotation {STATE} cannot be read: {error}; {_WAY_BACK}") from error
    if found != recorded:
        raise StateError(f"the plan in {STATE} was edited: its hash is {found}, {recorded} was recorded; {_WAY_BACK}")
    return state


_WAY_BACK: Final = (
    "put back what was there, or run `abort`: it returns all requests to the version that served before, without it"
)


def read_state(annotations: Mapping[str, str]) -> RolloutState | None:
    """Return the rollout that the annotations describe, or None. Raises StateError when it cannot be read."""
    text = annotations.get(STATE)
    return None if text is None else decode(text)


def derive_state(deployment: SeldonDeployment) -> RolloutState | None:
    """Return a rollout that can be aborted although its record is lost; None when there is only one predictor.

    The names come from what is left of the record, else from the order: a canary is always added behind stable.
    """
    names = list(deployment.traffic())
    if len(names) < 2:
        return None
    text = deployment.metadata.annotations.get(STATE, "")
    stable = _named(text, "stable", names) or names[0]
    canary = _named(text, "canary", names)
    if canary in (None, stable):
        canary = next(name for name in reversed(names) if name != stable)
    return RolloutState(
        id=secrets.token_hex(4),
        plan=Plan(analyse=False),
        stable=stable,
        canary=str(canary),
        phase=Phase.HELD,
        step=0,
        analyse=False,
        reason="RecordLost",
        message=f"the record of this rollout is lost; `abort` returns all requests to {stable}",
    )


def _named(text: str, role: str, names: Sequence[str]) -> str | None:
    """Find who had a role in the text of a record that is no JSON any more."""
    found = re.search(rf'"{role}"\s*:\s*"([^"]*)"', text)
    return found[1] if found and found[1] in names else None
