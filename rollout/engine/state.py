"""The state of a rollout: everything that survives the promoter, as an annotation of its SeldonDeployment.

The state is written in the same patch as the weights, so they always agree. Every write contains a new nonce and a
`test` of the text that was read, so the API server rejects the writes of a promoter that was replaced.

A rollout has two more annotations: a person's command, and the predictor that the rollout replaced.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AliasChoices, Field, PlainSerializer, TypeAdapter

from rollout.analysis.verdict import GateResult
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
    """The phases of a rollout."""

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
        """Whether the rollout has ended."""
        return self in (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED)

    @property
    def on_hold(self) -> bool:
        """Whether the weights stay until the cause disappears or a person decides."""
        return self in (Phase.PAUSED, Phase.HELD)


class Command(StrEnum):
    """A person's command to a rollout that another process drives."""

    PAUSE = "pause"
    PROMOTE = "promote"
    PROMOTE_FULL = "promote-full"
    ABORT = "abort"
    ADOPT = "adopt"


@dataclass(frozen=True, slots=True)
class Timers:
    """Durations in seconds that the promoter itself observed, so a wrong clock or a suspended machine adds nothing.

    step_s: at this step with its weights in the mesh. pending_s: waiting for the canary to be ready at 0 %.
    unready_s: since the canary was last ready. lag_s: since the mesh last had the weights. outage_s: since the last
    evidence. on_hold_s: since the rollout was held or paused. scaling_s: since pods were requested.
    flapping_s: the total time that the canary was unready, minus a tenth of the time that it was ready.
    """

    step_s: Seconds = 0.0
    pending_s: Seconds = 0.0
    unready_s: Seconds = 0.0
    lag_s: Seconds = 0.0
    outage_s: Seconds = 0.0
    on_hold_s: Annotated[Seconds, Field(validation_alias=AliasChoices("on_hold_s", "resting_s"))] = 0.0
    scaling_s: Seconds = 0.0
    flapping_s: Seconds = 0.0


TRAFFIC_MEMORY_S: Final = 60.0
TRAFFIC_MIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """The callers' requests of the last minute: both numbers fade with TRAFFIC_MEMORY_S. Copies are not counted.

    Scrapes are late, so one window may hold no requests and the next one twice as many; their sums are right.
    """

    requests: Annotated[float, PlainSerializer(lambda value: round(value, 1))] = 0.0
    seconds: Seconds = 0.0

    def after(self, requests: int, seconds: float) -> Traffic:
        """Return the traffic after one more window."""
        if seconds <= 0:
            return self
        kept = math.exp(-seconds / TRAFFIC_MEMORY_S)
        return Traffic(kept * self.requests + requests, kept * self.seconds + seconds)

    @property
    def rps(self) -> float | None:
        """The present requests/s; None until TRAFFIC_MIN_S were seen, and where nobody asks."""
        return self.requests / self.seconds if self.seconds >= TRAFFIC_MIN_S and self.requests else None


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout. step: -1 while the canary waits at 0 %, else the index in plan.steps.

    canary_requests, stable_requests: in this step. gate_open: a person opened the step's manual gate. closing: all else
    in the step has passed, so its closing checks run. asked, accepted: the gates whose questions a person must answer,
    and those that were answered with `promote`. checks: the latest results of the step's checks. requested: a
    person's `pause` or `promote --full` that is in effect or pending. evidence: the sequential tests, as serialised by
    gates.py. stable_pods: how many stable pods were ready when the rollout began and served all requests. traffic: what
    callers ask for now. scaling: the values to restore at the end, see capacity.py. expected: a fingerprint per
    predictor, as this rollout wrote it.
    rollback_stage: the stage that worked. nonce: "<writer>.<count>" of the last write. fence: the lease's
    transitions at that time.
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
    closing: bool = False
    asked: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    checks: tuple[GateResult, ...] = ()
    requested: Command | None = None
    analyse: bool = True
    evidence: Mapping[str, Any] = field(default_factory=dict)
    stable_pods: int = 0
    traffic: Traffic = field(default_factory=Traffic)
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
        """The canary's weight in this state."""
        if self.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED) or self.step < 0:
            return 0
        return self.plan.steps[self.step].weight_percent

    @property
    def mirror_percent(self) -> int:
        """The share of the requests that is copied to the canary in this state."""
        ended = (Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.FAILED, Phase.FINISHING, Phase.SUCCEEDED)
        return 0 if self.phase in ended else self.plan.steps[max(self.step, 0)].mirror_percent

    @property
    def counted(self) -> bool:
        """Whether the canary gets requests in this step, so that there are counts to judge."""
        return self.step >= 0 and self.plan.steps[self.step].counted

    @property
    def weights(self) -> dict[str, int]:
        """The weights of this state in percent per predictor; their sum is always 100."""
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
        """The promoter that wrote this state."""
        return self.nonce.partition(".")[0]

    def but(self, **changes: Any) -> RolloutState:
        """Return a copy with these fields replaced."""
        return replace(self, **changes)

    def running(self) -> RolloutState:
        """Return the state without its hold or pause."""
        return self.but(phase=self.active_phase, asked=())

    def at_step(self, step: int) -> RolloutState:
        """Return the state at the start of a step: its time and its requests are zero, its gate is closed."""
        timers = Timers(flapping_s=self.timers.flapping_s)
        begun = self.but(step=step, timers=timers, canary_requests=0, stable_requests=0, gate_open=False)
        # What a person accepted of a gate holds for the rollout; a check asks anew in each step.
        accepted = tuple(name for name in self.accepted if name in self.plan.gates.gates)
        return begun.but(closing=False, checks=(), accepted=accepted).running()


_JSON: Final = TypeAdapter(RolloutState)


def plain_json(data: Mapping[str, Any]) -> str:
    r"""Return compact JSON without the characters that two JSON writers escape differently.

    An API server compares the strings of a `test` byte by byte, as Go wrote them. Go writes `<` as \u003c and keeps
    letters beyond ASCII. Python escapes those letters and keeps `<`.
    """
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode(state: RolloutState) -> str:
    """Return the annotation's text."""
    return plain_json({"schema": SCHEMA, "plan_hash": state.plan.hash, **_JSON.dump_python(state, mode="json")})


def decode(text: str) -> RolloutState:
    """Read the output of `encode`. Raises StateError."""
    try:
        data = json.loads(text)
        if data.pop("schema") != SCHEMA:
            raise StateError(f"the annotation {STATE} was written by another release of this program; {_WAY_BACK}")
        recorded, found = data.pop("plan_hash"), plan_hash(data["plan"])
        if (data["phase"], data["reason"]) == (Phase.PAUSED, "Paused"):  # written before `requested` existed
            data.setdefault("requested", Command.PAUSE)
        state = _JSON.validate_json(json.dumps(data))  # as JSON: the plan's checks are strict about types
    except (PlanError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"the annotation {STATE} cannot be read: {error}; {_WAY_BACK}") from error
    if found != recorded:
        raise StateError(f"the plan in {STATE} was edited: its hash is {found}, {recorded} was recorded; {_WAY_BACK}")
    return state


_WAY_BACK: Final = (
    "put back what was there, or run `abort`: it returns all requests to the version that served before, without it"
)


def read_state(annotations: Mapping[str, str]) -> RolloutState | None:
    """Return the rollout in the annotations, or None. Raises StateError when it cannot be read."""
    text = annotations.get(STATE)
    return None if text is None else decode(text)


def derive_state(deployment: SeldonDeployment) -> RolloutState | None:
    """Return a rollout that can be aborted although its record is lost; None if there is only one predictor.

    The names come from the remaining record, else from the order: a canary is always added after stable.
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
    """Find the predictor with a role in the text of a record that is no longer valid JSON."""
    found = re.search(rf'"{role}"\s*:\s*"([^"]*)"', text)
    return found[1] if found and found[1] in names else None
