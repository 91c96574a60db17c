"""rollout.yaml and the flags that override it, read into a Plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rollout.analysis.gate_config import GateConfig
from rollout.errors import PlanError
from rollout.manifest.problems import field_errors
from rollout.plan.plan import DEFAULT_STEPS, OnDoubt, Plan, Step

Seconds = Annotated[float, Field(ge=0)]


class StepSettings(BaseModel):
    """One step; what is not given comes from `step_defaults`."""

    model_config = ConfigDict(extra="forbid")

    weight_percent: int
    min_duration_s: Seconds | None = None
    max_duration_s: Seconds | None = None
    min_requests: Annotated[int, Field(ge=0)] | None = None
    manual: bool | None = None


class StepDefaults(BaseModel):
    """What every step has unless it says otherwise."""

    model_config = ConfigDict(extra="forbid")

    min_duration_s: Seconds = Step(1).min_duration_s
    max_duration_s: Seconds = Step(1).max_duration_s
    min_requests: Annotated[int, Field(ge=0)] = Step(1).min_requests
    manual: bool = False


class Settings(BaseModel):
    """The file; every key is optional, and what is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    steps: tuple[int | StepSettings, ...] = tuple(step.weight_percent for step in DEFAULT_STEPS)
    step_defaults: StepDefaults = StepDefaults()
    bake_s: Seconds = DEFAULT_STEPS[-1].min_duration_s
    interval_s: Annotated[float, Field(gt=0)] = Plan().interval_s
    ready_deadline_s: Seconds = Plan().ready_deadline_s
    unready_deadline_s: Seconds = Plan().unready_deadline_s
    mesh_deadline_s: Seconds = Plan().mesh_deadline_s
    api_grace_s: Seconds = Plan().api_grace_s
    metric_grace_s: Seconds = Plan().metric_grace_s
    share_tolerance_percent: Annotated[float, Field(ge=0, le=100)] = Plan().share_tolerance_percent
    watch_held_s: Seconds = Plan().watch_held_s
    rollback_deadline_s: Seconds = Plan().rollback_deadline_s
    on_inconclusive: OnDoubt = OnDoubt.HOLD
    on_sigterm: OnDoubt = OnDoubt.HOLD
    keep_failed_canary: bool = False
    gates: dict[str, Any] = {}
    evidence: str = ""
    webhook: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """How to roll out, where the counts come from (`prometheus=URL`, `scrape`), and whom to tell."""

    plan: Plan
    evidence: str
    webhook: str


def read_config(file: Path | None, overrides: Mapping[str, Any], *, manual: Sequence[int] = ()) -> Config:
    """Read a file (None: the defaults), lay the given flags over it, and return the config. Raises PlanError.

    overrides: settings by name, `step_defaults` as a mapping of its own. manual: weights after which a person decides.
    """
    try:
        data = yaml.safe_load(file.read_text()) or {} if file else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise PlanError(f"{file} is {type(data).__name__}; settings are wanted, such as: steps: [10, 30, 50, 100]")
    step_defaults = {**(data.get("step_defaults") or {}), **overrides.get("step_defaults", {})}
    try:
        settings = Settings.model_validate({**data, **overrides, "step_defaults": step_defaults})
        return Config(_plan(settings, manual), settings.evidence, settings.webhook)
    except ValidationError as error:
        said = "; ".join(f"{path}: {message}" for path, message in field_errors(error))
        raise PlanError(f"{file or 'the flags'}: {said}") from error
    except ValueError as error:
        raise PlanError(f"{file or 'the flags'}: {error}") from error


def _plan(settings: Settings, manual: Sequence[int]) -> Plan:
    steps = []
    for given in settings.steps:
        step = StepSettings(weight_percent=given) if isinstance(given, int) else given
        values = settings.step_defaults.model_dump() | step.model_dump(exclude_none=True)
        if step.weight_percent in manual:
            values["manual"] = True
        if step.weight_percent == 100:  # the bake
            values |= {"min_duration_s": settings.bake_s} if step.min_duration_s is None else {}
            values |= {"max_duration_s": max(values["max_duration_s"], values["min_duration_s"])}
        steps.append(Step(**values))
    if unknown := set(manual) - {step.weight_percent for step in steps}:
        raise PlanError(f"a manual gate is wanted at {sorted(unknown)} %, where there is no step")
    same = {name for name in Plan.__slots__ if name in Settings.model_fields and name not in ("steps", "gates")}
    return Plan(
        steps=tuple(steps),
        gates=GateConfig.from_mapping(settings.gates),
        **{name: getattr(settings, name) for name in same},
    )
