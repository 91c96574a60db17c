"""The kinds of steps that rollout.yaml may list, and the hooks between them. A new kind of step is one class here.

Each becomes plain `Step`s (plan.py): a weight or a mirror, and checks. So nothing after the plan knows the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from rollout.analysis.paired import Limits
from rollout.checks.check import Check
from rollout.checks.kinds import Hook
from rollout.checks.paired import Paired
from rollout.checks.smoke import Smoke
from rollout.plan.plan import Step

Seconds = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    """The base of every part of the file: no conversion of types, no unknown keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class StepSettings(Strict):
    """What all kinds of steps have in common; values that are not given come from `step_defaults`."""

    min_duration_s: Seconds | None = None
    max_duration_s: Seconds | None = None
    min_requests: Annotated[int, Field(ge=0)] | None = None
    manual: bool | None = None

    def given(self, defaults: StepDefaults) -> dict[str, Any]:
        """Return the common values of a Step."""
        own = {name: getattr(self, name) for name in StepSettings.model_fields}
        return defaults.model_dump() | {name: value for name, value in own.items() if value is not None}

    def step(self, defaults: StepDefaults, bake_s: float) -> Step:
        """Return the step, without hooks."""
        raise NotImplementedError


class StepDefaults(Strict):
    """The defaults of all steps."""

    min_duration_s: Seconds = Step(1).min_duration_s
    max_duration_s: Seconds = Step(1).max_duration_s
    min_requests: Annotated[int, Field(ge=0)] = Step(1).min_requests
    manual: bool = False


class WeightStep(StepSettings):
    """A share of the callers' requests; the one of 100 % is the bake."""

    weight_percent: Annotated[int, Field(ge=1, le=100)]

    def step(self, defaults: StepDefaults, bake_s: float) -> Step:
        """Return the step; the bake lasts `bake_s` unless it says otherwise."""
        values = self.given(defaults)
        if self.weight_percent == 100:
            values |= {"min_duration_s": bake_s} if self.min_duration_s is None else {}
            values |= {"max_duration_s": max(values["max_duration_s"], values["min_duration_s"])}
        return Step(self.weight_percent, **values)


class Shadow(Strict):
    """percent: of the callers' requests that are copied. records: where both versions write their prediction records.

    Without records the shadow is judged by its own histograms alone, as every step is. lag_s, every_s, pairs: as in
    checks/paired.py.
    """

    percent: Annotated[int, Field(ge=1, le=100)] = 100
    records: str = ""
    lag_s: Annotated[float, Field(gt=0)] = 30.0
    every_s: Annotated[float, Field(gt=0)] = 10.0
    pairs: Limits = Limits()


class ShadowStep(StepSettings):
    """Copies of the callers' requests at 0 %; nobody gets the canary's answers."""

    shadow: Shadow

    def step(self, defaults: StepDefaults, bake_s: float) -> Step:
        """Return the step, with the paired verdict where there are records."""
        one = self.shadow
        paired = (
            Paired(records=one.records, lag_s=one.lag_s, every_s=one.every_s, limits=one.pairs) if one.records else None
        )
        return Step(
            0, name="shadow", mirror_percent=one.percent, checks=(paired,) if paired else (), **self.given(defaults)
        )


class SmokeStep(StepSettings):
    """A few requests to the canary alone, at 0 %."""

    smoke: Smoke

    def step(self, defaults: StepDefaults, bake_s: float) -> Step:
        """Return the step; it ends with the answers, unless it gives a time."""
        values = self.given(defaults) | {"min_duration_s": self.min_duration_s or 0.0, "min_requests": 0}
        return Step(0, name=self.smoke.name, checks=(self.smoke,), **values)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return next((kind for kind in ("shadow", "smoke") if kind in value), "step")
    return (
        next((kind for kind in ("shadow", "smoke") if hasattr(value, kind)), "step") if _is_model(value) else "weight"
    )


def _is_model(value: Any) -> bool:
    return isinstance(value, BaseModel)


AnyStep = Annotated[
    Annotated[int, Tag("weight")]
    | Annotated[WeightStep, Tag("step")]
    | Annotated[ShadowStep, Tag("shadow")]
    | Annotated[SmokeStep, Tag("smoke")],
    Discriminator(_kind),
]


class Hooks(Strict):
    """before: at 0 %, when the canary is ready, before anything else. after_each_step: when all else in it has passed.

    after: at the end of the bake, before the old version is deleted.
    """

    before: tuple[Hook, ...] = ()
    after_each_step: tuple[Hook, ...] = ()
    after: tuple[Hook, ...] = ()


def compile_steps(
    given: tuple[Any, ...],
    defaults: StepDefaults,
    bake_s: float,
    *,
    hooks: Hooks = Hooks(),  # noqa: B008
    questions: tuple[Check, ...] = (),
    manual: frozenset[int] = frozenset(),
) -> tuple[Step, ...]:
    """Return the steps of a plan. questions: asked in steps with requests. manual: weights that wait for a person."""
    settings = [WeightStep.model_construct(weight_percent=one) if isinstance(one, int) else one for one in given]
    steps = [one.step(defaults, bake_s) for one in settings]
    checks: tuple[Check, ...] = tuple(hooks.before)
    found = []
    if checks:
        least = {"min_duration_s": 0.0, "max_duration_s": defaults.max_duration_s, "min_requests": 0}
        found.append(Step(0, name="before", checks=checks, **least))  # type: ignore[arg-type]
    for step in steps:
        last = step.weight_percent == 100
        changes: dict[str, Any] = {"closing": (*hooks.after_each_step, *(hooks.after if last else ()))}
        if step.counted:
            changes["checks"] = (*step.checks, *questions)
        if step.weight_percent and step.weight_percent in manual:
            changes["manual"] = True
        found.append(replace(step, **changes))
    return tuple(found)
