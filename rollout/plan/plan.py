"""What a rollout shall do: its steps, its limits and its gates, as one frozen value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter

from rollout.analysis.gate_config import GateConfig
from rollout.errors import PlanError


class OnDoubt(StrEnum):
    """What to do when a step's time is over without a verdict, or when the promoter gets a signal to end."""

    HOLD = "hold"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Step:
    """One weight of the canary, and what it takes to leave it: time, canary requests, and a person where `manual`."""

    weight_percent: int
    min_duration_s: float = 60.0
    max_duration_s: float = 1800.0
    min_requests: int = 300
    manual: bool = False

    def __post_init__(self) -> None:
        """Refuse a step that cannot be taken or never ends."""
        if not 1 <= self.weight_percent <= 100:
            raise PlanError(f"step weight is {self.weight_percent}; allowed: 1..100 (0 is where every rollout begins)")
        if not 0 <= self.min_duration_s <= self.max_duration_s:
            raise PlanError(
                f"step {self.weight_percent} %: min_duration_s is {self.min_duration_s}, max_duration_s is "
                f"{self.max_duration_s}; allowed: 0 <= min <= max"
            )
        if self.min_requests < 0:
            raise PlanError(f"step {self.weight_percent} %: min_requests is {self.min_requests}; allowed: 0 and more")


DEFAULT_STEPS = (Step(10), Step(30), Step(50), Step(100, min_duration_s=300.0))
"""10 -> 30 -> 50 -> 100 %; the last is the bake, with the old version still warm."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole rollout. The last step has weight 100 and is the bake: the old predictor is deleted when it ends.

    ready_deadline_s: from adding the canary until it must be ready, at 0 %. unready_deadline_s: how long a canary that
    was ready may be unready before it is rolled back. mesh_deadline_s: how long the mesh may lag behind the weights.
    api_grace_s: how long the API server may not answer before the promoter gives up, with the rollout as it stands.
    metric_grace_s: how long the evidence may be unavailable before the rollout counts as held. share_tolerance_percent:
    how far the observed share of requests may be from the weight, beyond chance. watch_held_s: how long a held or
    paused rollout is still watched before the promoter leaves. rollback_deadline_s: for each stage of a rollback.
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

    def __post_init__(self) -> None:
        """Refuse steps that do not grow to 100 % and limits below zero."""
        weights = [step.weight_percent for step in self.steps]
        if not weights or weights != sorted(set(weights)) or weights[-1] != 100:
            raise PlanError(f"steps are {weights}; allowed: growing weights that end with 100, such as 10, 30, 50, 100")
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
        """Identify the plan: 12 hex digits of its sha256."""
        return plan_hash(PLAN_JSON.dump_python(self, mode="json"))


PLAN_JSON: Final = TypeAdapter(Plan)
"""Reads and writes a plan as JSON."""


def plan_hash(data: Mapping[str, Any]) -> str:
    """Return the hash of a plan's JSON; it does not depend on what this release of the program adds to a plan."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
