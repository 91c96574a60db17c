"""Describes a plan and the patches of a rollout as text for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollout.analysis.rate_gates import RelativeGate, RestartGate, SloGate
from rollout.analysis.verdict import OnDoubt
from rollout.checks.check import Check
from rollout.engine.state import COMMAND, PREVIOUS, STATE
from rollout.plan.plan import Plan, PodCapacity, Step
from rollout.reporting.charts import duration
from rollout.targets.target import Operation

_EVENTS: Final = {"errors": "errors (5xx)", "rejected": "rejections (4xx)", "slow": "slow answers"}
_ANNOTATIONS: Final = {
    STATE: "the record of the rollout",
    PREVIOUS: "the predictor that `undo` brings back",
    COMMAND: "a command for whoever drives the rollout",
}
_PREDICTOR: Final = re.compile(r"/spec/predictors/(\d+|-)")


def plan_words(plan: Plan) -> RenderableType:
    """Return the steps and the gates as two tables."""
    steps = Table(box=None, padding=(0, 2))
    for heading in ("step", "weight", "lasts", "at most", "canary requests", "then"):
        steps.add_column(heading, header_style="dim")
    for index, step in enumerate(plan.steps):
        then = "a person decides" if step.manual else "stable is deleted" if index == plan.last else "the next step"
        steps.add_row(
            str(index + 1),
            step_words(step),
            duration(step.min_duration_s),
            duration(step.max_duration_s),
            f"{step.min_requests:,} or more" if step.counted else "none",
            then,
        )
    gates = Table(box=None, padding=(0, 2))
    for heading in ("gate", "rolls back when", "passes when"):
        gates.add_column(heading, header_style="dim", overflow="fold")
    for name, gate in plan.gates.gates.items():
        fails, passes = gate_words(gate)
        gates.add_row(f"{name} (dry run: decides nothing)" if gate.dry_run else name, fails, passes)
    for check, titles in _checks(plan):
        fails, passes = check.describe()
        fails += " (asks a person)" if check.on_fail is OnDoubt.HOLD else ""
        gates.add_row(f"{check.name} ({', '.join(titles)})", fails, passes)
    least_s = sum(step.min_duration_s for step in plan.steps)
    sure = (
        f"A canary as good as stable is rolled back in at most {100 * plan.gates.alpha:g} % of all rollouts. A step "
        f"without a verdict in its time: {plan.on_inconclusive.value}."
    )
    said = f"Plan {plan.hash}: {duration(least_s)} at least."
    return Group(Text(said), steps, Text(_pods_words(plan.capacity)), Text(), gates, Text(), Text(sure))


def _pods_words(capacity: PodCapacity | None) -> str:
    """Return what a share's pods are computed from."""
    if capacity is None:
        return "Before a weight rises: the canary has its share of stable's pods."
    used = capacity.target_utilisation_percent
    target = "its autoscaler's target" if used is None else f"{used} %"
    return (
        "Before a weight rises: both versions have the pods for the present traffic; a pod serves "
        f"{capacity.pod_rps:,g} requests/s, of which {target} is used."
    )


def step_words(step: Step) -> str:
    """Return what the canary gets in a step: `30 %`, `0 % (smoke)`, `0 % (shadow, 100 % copied)`."""
    copied = f", {step.mirror_percent} % copied" if step.mirror_percent else ""
    return f"{step.weight_percent} % ({step.name}{copied})" if step.name else f"{step.weight_percent} %"


def _checks(plan: Plan) -> list[tuple[Check, list[str]]]:
    """Return every check with the steps in which it is asked."""
    found: list[tuple[Check, list[str]]] = []
    for step in plan.steps:
        for check in step.every_check:
            known = next((titles for one, titles in found if one == check), None)
            if known is None:
                found.append((check, [step.title]))
            else:
                known.append(step.title)
    return found


def gate_words(gate: Any) -> tuple[str, str]:
    """Return when a gate fails and when it passes, as text."""
    if isinstance(gate, RelativeGate):
        event = _EVENTS.get(gate.event, gate.event)
        return (
            f"{event} are more than {gate.margin:g} times those of stable, and at least {100 * gate.floor:g} %",
            f"they are below {100 * gate.pass_rate:g} %, or below {gate.pass_ratio:g} times those of stable",
        )
    if isinstance(gate, RestartGate):
        return (
            f"the canary's containers restart {gate.limit} times, and more often than stable's",
            f"they restart less often than {gate.limit} times, or no more often than stable's",
        )
    if isinstance(gate, SloGate):
        event = _EVENTS.get(gate.event, gate.event)
        if gate.seen_by == "callers":
            event += ", as the mesh counts them,"
        return f"{event} exceed {100 * gate.limit:g} %", f"{event} stay within {100 * gate.limit:g} %"
    asks = " (asks a person)" if gate.on_fail is OnDoubt.HOLD else ""
    return (
        f"the scores differ from stable's by more than {gate.threshold:g} bits{asks}",
        f"they differ by less, with {gate.min_rows:,} rows or more",
    )


def operation_words(operations: Sequence[Operation]) -> Iterator[str]:
    """Describe a JSON Patch, one line for each change; annotations are named but not printed."""
    tests = 0
    for operation in operations:
        kind, path, value = operation["op"], operation["path"], operation.get("value")
        key = path.removeprefix("/metadata/annotations/").replace("~1", "/")
        predictor = _PREDICTOR.match(path)
        if kind == "test":
            tests += 1
        elif key in _ANNOTATIONS:
            yield f"{'remove' if kind == 'remove' else 'write'} {_ANNOTATIONS[key]} (annotation {key})"
        elif path == "/metadata/annotations":
            continue  # only creates the mapping for the next operation
        elif predictor and path.endswith("/traffic"):
            yield f"set the traffic of predictor {predictor[1]} to {value} %"
        elif predictor and predictor.end() == len(path):
            yield f"remove predictor {predictor[1]}" if kind == "remove" else _added(value)
        else:
            yield f"{kind} {path}" + ("" if kind == "remove" else f": {value}")
    if tests:
        yield f"only if nothing changed meanwhile ({tests} tests)"


def _added(predictor: Any) -> str:
    containers = [
        container["image"]
        for component in predictor.get("componentSpecs", [])
        for container in component.get("spec", {}).get("containers", [])
        if "image" in container
    ]
    image = f", image {', '.join(containers)}" if containers else ""
    model = predictor.get("graph", {}).get("modelUri")
    source = f", model {model}" if model else ""
    return f"add predictor {predictor['name']} at {predictor.get('traffic', 0)} %{image}{source}"
