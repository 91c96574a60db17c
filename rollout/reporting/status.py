"""The state of a rollout, collected once and shown as a screen (`status --watch`) or as JSON (`-o json`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rollout.analysis.verdict import GateResult
from rollout.engine.analyst import present_results
from rollout.engine.state import Phase, RolloutState
from rollout.errors import TargetError
from rollout.reporting.advice import commands, next_step
from rollout.reporting.charts import duration
from rollout.reporting.plan_words import step_words
from rollout.reporting.terminal import COLOURS, weights_bar
from rollout.targets.place import UNKNOWN, Place, place_of
from rollout.targets.target import LeaseRecord, Pod, PodLister, Readiness, Snapshot

PHASE_COLOURS: Final[Mapping[Phase, str]] = {
    Phase.SUCCEEDED: "green",
    Phase.BAKING: "green",
    Phase.PAUSED: "yellow",
    Phase.HELD: "yellow",
    Phase.ROLLING_BACK: "red",
    Phase.ROLLED_BACK: "red",
    Phase.FAILED: "bold red",
}
_RESULTS: Final = TypeAdapter(tuple[GateResult, ...])
MOST_PODS = 8
"""The number of pods per predictor that are shown; the others are only counted."""


@dataclass(frozen=True, slots=True)
class Status:
    """One status of a rollout. images: per predictor. pods_error: why no pods are shown; empty if they are.

    controller: the controller that is alive in the namespace; empty if there is none. place: of the deployment.
    """

    deployment: str
    state: RolloutState
    mesh_percent: Mapping[str, int]
    readiness: Mapping[str, Readiness]
    images: Mapping[str, str]
    operator: str
    lease: LeaseRecord
    now_s: float
    gates: tuple[GateResult, ...] = ()
    pods: Sequence[Pod] = ()
    pods_error: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    controller: str = ""
    place: Place = UNKNOWN

    @property
    def driven(self) -> bool:
        """Whether a promoter renewed its lease recently, by this machine's clock."""
        return bool(self.lease.holder) and self.now_s - self.lease.renewed_at_s <= 2 * self.lease.duration_s

    @property
    def driver(self) -> str:
        """The holder of the lease, since when it drives, and the time of its last known renewal."""
        if self.state.phase.over:
            return "nobody: the rollout is over"
        takes = f"; {self.controller} is alive and takes it over" if self.controller and not self.driven else ""
        if not self.lease.holder:
            return f"nobody{takes}"
        since = ""
        if self.lease.acquired_at_s:
            since = f" since {duration(max(0.0, self.now_s - self.lease.acquired_at_s))}"
        seen_s = max(0.0, self.now_s - self.lease.renewed_at_s)
        lost = "" if self.driven else "; it is probably dead"
        return f"{self.lease.holder}{since}, last seen {duration(seen_s)} ago{lost}{takes}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "mesh": dict(self.mesh_percent),
            "holder": self.lease.holder,
            "driven": self.driven,
            "driven_since_s": self.lease.acquired_at_s if self.driven and self.lease.acquired_at_s else None,
            "controller": self.controller,
            "gates": _RESULTS.dump_python(self.gates, mode="json"),
            "pods": [
                {
                    "predictor": pod.predictor,
                    "name": pod.name,
                    "image": pod.image,
                    "age_s": None if pod.created_at_s is None else round(self.now_s - pod.created_at_s),
                    "ready": pod.ready,
                    "restarts": pod.restarts,
                }
                for pod in self.pods
            ],
            "operator": self.operator,
            "notes": list(self.notes),
            "next": next_step(self.state),
        }


def look(
    snapshot: Snapshot,
    state: RolloutState,
    lease: LeaseRecord,
    target: object,
    *,
    now_s: float,
    controller: str = "",
) -> Status:
    """Collect a status. target: its pods are listed if it can; a missing right is shown, not raised."""
    deployment = snapshot.deployment
    pods: Sequence[Pod] = ()
    pods_error = ""
    if isinstance(target, PodLister):
        try:
            pods = target.pods()
        except TargetError as error:
            pods_error = str(error)
    operator = deployment.status
    words = f"{operator.state} {operator.description or ''}".strip() if operator else "no status yet"
    return Status(
        deployment=deployment.name,
        state=state,
        mesh_percent=dict(snapshot.mesh_weights),
        readiness=snapshot.readiness,
        images={one.name: one.model_container.image or one.graph.model_uri for one in deployment.predictors},
        operator=words,
        lease=lease,
        now_s=now_s,
        gates=(*present_results(state), *state.checks),
        pods=pods,
        pods_error=pods_error,
        notes=_notes(snapshot, state),
        controller=controller,
        place=place_of(target),
    )


def _notes(snapshot: Snapshot, state: RolloutState) -> tuple[str, ...]:
    """Return explanations of values that could mislead a reader."""
    notes = []
    routed = {name: percent for name, percent in snapshot.mesh_weights.items() if percent}
    if routed != {name: percent for name, percent in state.weights.items() if percent}:
        notes.append("the mesh does not route by the weights that the rollout asks for (yet)")
    status = snapshot.deployment.status
    present = [predictor.name for predictor in snapshot.deployment.predictors]
    ready = all(name in snapshot.readiness and snapshot.readiness[name].ready for name in present)
    if status and status.state == "Failed" and ready:
        notes.append(
            "the operator still says Failed, although every predictor is ready: it keeps this word after it removed a "
            'predictor (seen with 1.17.1). Weights are written all the same; see the runbook, "Roll back by hand"'
        )
    return tuple(notes)


def screen(status: Status) -> RenderableType:
    """Return the whole screen for a terminal."""
    state = status.state
    colour = PHASE_COLOURS.get(state.phase, "cyan")
    title = Text.assemble(
        (status.deployment, "bold"), f": {state.stable} to {state.canary}   ", (state.phase.value, colour)
    )
    head = Table.grid(padding=(0, 2))
    head.add_row(Text("asked", "dim"), weights_bar(state.weights, state))
    head.add_row(Text("mesh", "dim"), weights_bar(status.mesh_percent, state))
    head.add_row(Text("why", "dim"), Text(state.message or "-"))
    head.add_row(Text("driver", "dim"), Text(status.driver, "" if status.driven or state.phase.over else "yellow"))
    if state.started_at_s:
        begun = f"{duration(max(0.0, status.now_s - state.started_at_s))} ago, rollout {state.id}"
        head.add_row(Text("begun", "dim"), Text(begun))
    head.add_row(Text("operator", "dim"), Text(status.operator))
    parts: list[RenderableType] = [
        Panel(head, title=title, title_align="left"),
        Panel(_steps(state), title="Steps", title_align="left"),
        Panel(_predictors(status), title="Predictors and pods", title_align="left"),
    ]
    if status.gates:
        parts.append(Panel(_gates(status.gates), title="Gates: evidence of this step", title_align="left"))
    after = Table.grid(padding=(0, 2))
    after.add_row(Text("next", "dim"), Text(next_step(state)))
    for one in commands(
        state.phase,
        status.deployment,
        stable=state.stable,
        canary=state.canary,
        driven=status.driven,
        place=status.place,
    ):
        after.add_row(Text("command", "dim"), Text.assemble((one.command, "bold"), f"  {one.purpose}"))
    for note in status.notes:
        after.add_row(Text("note", "yellow"), Text(note))
    parts.append(Panel(after, title="What happens next", title_align="left"))
    return Group(*parts)


def _steps(state: RolloutState) -> Table:
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for heading in ("", "weight", "time", "canary requests", ""):
        table.add_column(heading, header_style="dim")
    for index, step in enumerate(state.plan.steps):
        done = index < state.step or state.phase is Phase.SUCCEEDED
        here = index == state.step and not done
        mark, style = ("✔", "green") if done else ("▶", "bold") if here else ("·", "dim")
        time, requests = duration(step.min_duration_s), f"{step.min_requests:,}"
        if here:
            time = f"{duration(state.timers.step_s)} of {time}"
            requests = f"{state.canary_requests:,} of {requests}"
        last = index == state.plan.last
        gate = "then a person decides" if step.manual else "bake: stable stays ready" if last else ""
        table.add_row(mark, step_words(step), time, requests if step.counted else "", gate, style=style)
    return table


def _predictors(status: Status) -> Table:
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for heading in ("predictor", "asked", "mesh", "ready", "age", "restarts", "image"):
        table.add_column(heading, header_style="dim", overflow="fold")
    for name, image in status.images.items():
        ready = status.readiness.get(name)
        mine = [pod for pod in status.pods if pod.predictor == name]
        role = "canary" if name == status.state.canary else "stable" if name == status.state.stable else "foreign"
        table.add_row(
            Text(f"{name} ({role})", "bold"),
            f"{status.state.weights.get(name, 0)} %",
            f"{status.mesh_percent.get(name, 0)} %",
            Text(f"{ready.available}/{ready.replicas}", "green" if ready.ready else "yellow") if ready else "-",
            "",
            "",
            image,
        )
        for pod in mine[:MOST_PODS]:
            age = "-" if pod.created_at_s is None else duration(max(0.0, status.now_s - pod.created_at_s))
            words = Text("ready", "green") if pod.ready else Text("not ready", "yellow")
            image_of_pod = "" if pod.image == image else pod.image
            table.add_row(f"  {pod.name}", "", "", words, age, str(pod.restarts), image_of_pod)
        if len(mine) > MOST_PODS:
            table.add_row(Text(f"  and {len(mine) - MOST_PODS} more", "dim"))
    if status.pods_error:
        table.add_row(Text(f"pods: {status.pods_error}", "yellow"))
    return table


def _gates(results: Sequence[GateResult]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for result in results:
        name = f"{result.name} (dry run)" if result.dry_run else result.name
        table.add_row(name, Text(result.verdict.value.replace("_", " "), COLOURS[result.verdict]), result.reason)
    return table
