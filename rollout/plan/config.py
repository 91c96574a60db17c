"""Reads rollout.yaml and the flags that override it, and returns a Plan. One strict model validates both.

Strict means: text is not converted to numbers or booleans, booleans are not converted to numbers, infinite numbers and
duplicate keys are rejected.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import yaml
from pydantic import Field, ValidationError, create_model

from rollout.analysis.gate_config import GateConfig
from rollout.analysis.verdict import OnDoubt
from rollout.checks.labels import Labels
from rollout.checks.query import Query
from rollout.errors import PlanError
from rollout.manifest.problems import field_errors
from rollout.plan.plan import DEFAULT_STEPS, Plan, PodCapacity
from rollout.plan.steps import AnyStep, Hooks, Seconds, StepDefaults, Strict, compile_steps

PROMETHEUS: Final = "prometheus="


def _strict_model(default: Any) -> type[Strict]:
    """Return a strict model of a gate's dataclass and of its nested gates, with the same types and defaults.

    What a gate counts, and where, is no setting: it follows from the gate's name.
    """
    types = get_type_hints(type(default))
    settings: dict[str, Any] = {}
    for one in fields(default):
        if one.name in ("event", "seen_by"):
            continue
        value = getattr(default, one.name)
        kind = _strict_model(value) | None if is_dataclass(value) else types[one.name]
        settings[one.name] = (kind, value)
    return create_model(type(default).__name__, __base__=Strict, **settings)


_GATES: Final = GateConfig()
GateSettings = _strict_model(_GATES)


class CapacitySettings(Strict):
    """What one pod was measured to serve (`churn-serving manifest capacity` derives it): see PodCapacity."""

    pod_rps: Annotated[float, Field(gt=0)]
    target_utilisation_percent: Annotated[int, Field(ge=1, le=100)] | None = None


class Settings(Strict):
    """The file; every key is optional. judged=False advances a rollout by time and requests alone, without gates."""

    steps: tuple[AnyStep, ...] = tuple(step.weight_percent for step in DEFAULT_STEPS)
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
    gates: GateSettings = Field(default_factory=GateSettings)  # type: ignore[valid-type]
    custom_gates: tuple[Query, ...] = ()
    labels: Labels | None = None
    hooks: Hooks = Hooks()
    judged: bool = True
    capacity: CapacitySettings | None = None
    evidence: str = ""
    webhook: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """The plan, the source of the counts (`prometheus=URL` or `scrape`), and the webhook that is notified."""

    plan: Plan
    evidence: str
    webhook: str


def read_config(file: Path | None, overrides: Mapping[str, Any], *, manual: Sequence[int] = ()) -> Config:
    """Read a file (None: the defaults), apply the given flags to it, and return the config. Raises PlanError.

    overrides: settings by name, with `step_defaults` as a nested mapping. manual: weights after which a person decides.
    """
    try:
        data = yaml.load(file.read_text(), _Loader) or {} if file else {}  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise PlanError(f"{file} cannot be read: {reason}") from error
    if not isinstance(data, dict):
        raise PlanError(f"{file} is {type(data).__name__}; expected settings, such as: steps: [10, 30, 50, 100]")
    step_defaults = data.get("step_defaults") or {}
    if isinstance(step_defaults, Mapping):
        step_defaults = {**step_defaults, **overrides.get("step_defaults", {})}
    try:
        # As JSON, because strict Python input would have to contain tuples and enums already.
        text = json.dumps({**data, **overrides, "step_defaults": step_defaults}, default=str)
        settings = Settings.model_validate_json(text)
        return Config(_plan(settings, manual), settings.evidence, settings.webhook)
    except ValidationError as error:
        said = "; ".join(f"{path}: {message}" for path, message in field_errors(error))
        raise PlanError(f"{file or 'the flags'}: {said}") from error
    except ValueError as error:
        raise PlanError(f"{file or 'the flags'}: {error}") from error


def _plan(settings: Settings, manual: Sequence[int]) -> Plan:
    address = settings.evidence.removeprefix(PROMETHEUS) if settings.evidence.startswith(PROMETHEUS) else ""
    queries = [
        query if query.prometheus else query.model_copy(update={"prometheus": address})
        for query in settings.custom_gates
    ]
    if lost := [query.name for query in queries if not query.prometheus]:
        raise PlanError(
            f"custom_gates {', '.join(lost)}: no Prometheus to ask; set `prometheus`, or evidence: prometheus=URL"
        )
    steps = compile_steps(
        settings.steps,
        settings.step_defaults,
        settings.bake_s,
        hooks=settings.hooks,
        questions=(*queries, *((settings.labels,) if settings.labels else ())),
        manual=frozenset(manual),
    )
    weights = [step.weight_percent for step in steps if step.weight_percent]
    if unknown := sorted(set(manual) - set(weights)):
        raise PlanError(
            f"--manual is {unknown[0]}, and no step has this weight; allowed: {', '.join(map(str, weights))}"
        )
    converted = ("steps", "gates", "capacity")
    same = {name for name in Plan.__slots__ if name in Settings.model_fields and name not in converted}
    gates = _gates(settings.gates, first_step_s=next((step.min_duration_s for step in steps if step.counted), 0.0))
    checks = [check for step in steps for check in step.every_check]
    undecided = all(gate.dry_run for gate in gates.gates.values()) and not any(check.judges for check in checks)
    if settings.judged and undecided:
        raise PlanError(
            f"nothing judges this rollout: {_named(gates)}; switch a gate on, or set `judged: false` to go on by time "
            "and requests alone"
        )
    return Plan(
        steps=steps,
        gates=gates,
        analyse=bool(gates.gates) or bool(checks),
        capacity=None if settings.capacity is None else PodCapacity(**settings.capacity.model_dump()),
        **{name: getattr(settings, name) for name in same},
    )


def _gates(settings: Any, *, first_step_s: float) -> GateConfig:
    """Return the gates. A warm-up that is not given is no longer than the first step lasts at least."""
    values = {
        name: replace(getattr(_GATES, name), **dict(value)) if isinstance(value, Strict) else value
        for name, value in settings
    }
    if "warm_up_s" not in settings.model_fields_set:
        values["warm_up_s"] = min(_GATES.warm_up_s, first_step_s)
    return GateConfig(**values)


def _named(gates: GateConfig) -> str:
    dry = ", ".join(gates.gates)
    return f"every gate that is on only shows what it would say (dry_run): {dry}" if dry else "every gate is off"


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys in YAML; otherwise the last one would be used without a message."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Read a mapping. Raises ConstructorError for a duplicate key."""
        found: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            found.add(key)
        return super().construct_mapping(node, deep=deep)
