"""The plan of a rollout: its steps, limits and gates, as one frozen value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from rollout.analysis.gate_config import GateConfig
from rollout.analysis.verdict import OnDoubt
from rollout.checks.check import Check
from rollout.checks.kinds import AnyCheck
from rollout.errors import PlanError


@dataclass(frozen=True, slots=True)
class Step:
    """What the canary gets, and the conditions to leave it: time, canary requests, checks, and a person if `manual`.

    weight_percent: of the callers' requests. mirror_percent: of them again, as copies whose answers nobody gets; only
    at weight 0. name: how the step is shown; empty: by its weight. checks: judged as the gates are, as long as the step
    lasts. closing: begin once everything else has passed.
    """

    weight_percent: int
    min_duration_s: float = 60.0
    max_duration_s: float = 1800.0
    min_requests: int = 300
    manual: bool = False
    name: str = ""
    mirror_percent: int = 0
    checks: tuple[AnyCheck, ...] = ()
    closing: tuple[AnyCheck, ...] = ()

    def __post_init__(self) -> None:
        """Reject a step with an invalid weight, one without anything to judge, or one that never ends."""
        if not 0 <= self.weight_percent <= 100:
            raise PlanError(f"step weight is {self.weight_percent}; allowed: 1..100, and 0 with a shadow or checks")
        if not 0 <= self.mirror_percent <= 100 or (self.mirror_percent and self.weight_percent):
            raise PlanError(
                f"step {self.weight_percent} %: mirror_percent is {self.mirror_percent}; allowed: 0..100, only at 0 %"
            )
        if not (self.counted or self.checks or self.closing):
            raise PlanError(
                "step weight is 0; allowed: 1..100, and 0 with a shadow or checks (every rollout begins there)"
            )
        names = [name for check in (*self.checks, *self.closing) for name in check.results]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PlanError(f"step {self.title}: several checks are named {', '.join(twice)}; names must differ")
        if not 0 <= self.min_duration_s <= self.max_duration_s:
            raise PlanError(
                f"step {self.weight_percent} %: min_duration_s is {self.min_duration_s}, max_duration_s is "
                f"{self.max_duration_s}; allowed: 0 <= min <= max"
            )
        if self.min_requests < 0:
            raise PlanError(f"step {self.weight_percent} %: min_requests is {self.min_requests}; allowed: 0 and more")

    @property
    def title(self) -> str:
        """How the step is shown: `30 %`, or by name: `shadow`, `smoke`."""
        return self.name or f"{self.weight_percent} %"

    @property
    def counted(self) -> bool:
        """Whether the canary gets requests in it, as its own or as copies, so that there are counts to judge."""
        return bool(self.weight_percent or self.mirror_percent)

    @property
    def load_percent(self) -> int:
        """The share of all requests that the canary's pods must serve."""
        return max(self.weight_percent, self.mirror_percent)

    @property
    def every_check(self) -> tuple[Check, ...]:
        """All checks, in the order in which they are shown."""
        return (*self.checks, *self.closing)


@dataclass(frozen=True, slots=True)
class PodCapacity:
    """What one pod was measured to serve. pod_rps: requests/s within the latency objective.

    target_utilisation_percent: how much of that is used; None: as much as the predictor's autoscaler aims at, and all
    of it where there is none.
    """

    pod_rps: float
    target_utilisation_percent: int | None = None

    def __post_init__(self) -> None:
        """Reject a pod that serves nothing, and a share that is none."""
        if self.pod_rps <= 0:
            raise PlanError(f"capacity.pod_rps is {self.pod_rps}; allowed: more than 0")
        if self.target_utilisation_percent is not None and not 1 <= self.target_utilisation_percent <= 100:
            raise PlanError(
                f"capacity.target_utilisation_percent is {self.target_utilisation_percent}; allowed: 1..100"
            )


DEFAULT_STEPS = (Step(10), Step(30), Step(50), Step(100, min_duration_s=300.0))
"""10 -> 30 -> 50 -> 100 %. The last step is the bake: the pods of the old version still run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole rollout. The last step has weight 100 and is the bake; the old predictor is deleted when it ends.

    ready_deadline_s: time for the new canary to become ready, at 0 %. unready_deadline_s: how long a canary that was
    ready may be unready before the rollback. mesh_deadline_s: maximum delay of the mesh behind the weights.
    api_grace_s: how long the API server may be unavailable before the promoter exits and leaves the rollout unchanged.
    metric_grace_s: how long the evidence may be unavailable before the rollout is held. share_tolerance_percent: the
    allowed difference between the observed share of requests and the weight, beyond random variation. watch_held_s: how
    long the promoter watches a held or paused rollout before it exits. rollback_deadline_s: for each rollback stage.
    capacity: of one pod, as measured; None: the pods of a share are that share of stable's pods.
    """

    steps: tuple[Step, ...] = DEFAULT_STEPS
    gates: GateConfig = field(default_factory=GateConfig)
    interval_s: float = 10.0
    ready_deadline_s: float = 600.0
    unready_deadline_s: float = 30.0
    mesh_deadline_s: float = 120.0
    api_grace_s: float = 120.0
    metric_grace_s: float = 120.0
    share_tolerance_percent: float = 5.0
    watch_held_s: float = 600.0
    rollback_deadline_s: float = 60.0
    on_inconclusive: OnDoubt = OnDoubt.HOLD
    on_sigterm: OnDoubt = OnDoubt.HOLD
    keep_failed_canary: bool = False
    analyse: bool = True
    capacity: PodCapacity | None = None

    def __post_init__(self) -> None:
        """Reject steps that do not increase to 100 %, and limits below zero."""
        weights = [step.weight_percent for step in self.steps]
        growing = [weight for weight in weights if weight]
        if not growing or growing != sorted(set(growing)) or weights[-1] != 100 or sorted(weights) != weights:
            raise PlanError(
                f"steps are {weights}; allowed: growing weights that end with 100, such as 10, 30, 50, 100, and before "
                "them shadow and smoke steps"
            )
        if self.interval_s <= 0:
            raise PlanError(f"interval_s is {self.interval_s}; allowed: more than 0")
        for name, value in self._limits().items():
            if value < 0:
                raise PlanError(f"{name} is {value}; allowed: 0 and more")

    def _limits(self) -> dict[str, float]:
        return {
            "ready_deadline_s": self.ready_deadline_s,
            "unready_deadline_s": self.unready_deadline_s,
            "mesh_deadline_s": self.mesh_deadline_s,
            "api_grace_s": self.api_grace_s,
            "metric_grace_s": self.metric_grace_s,
            "share_tolerance_percent": self.share_tolerance_percent,
            "watch_held_s": self.watch_held_s,
            "rollback_deadline_s": self.rollback_deadline_s,
        }

    @property
    def last(self) -> int:
        """The index of the bake."""
        return len(self.steps) - 1

    @property
    def hash(self) -> str:
        """Return the identifier of the plan: 12 hex digits of its sha256."""
        return plan_hash(PLAN_JSON.dump_python(self, mode="json"))


PLAN_JSON: Final = TypeAdapter(Plan)
"""Reads and writes a plan as JSON."""


def plan_hash(data: Mapping[str, Any]) -> str:
    """Return the hash of a plan's JSON. Fields that a later release adds do not change it."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
