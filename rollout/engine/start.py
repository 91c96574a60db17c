"""Builds the first patch of a rollout or an undo, which adds a predictor at 0 %.

The predictor of a new version is a copy of the current one with the release's changes.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from rollout.clock import Clock
from rollout.engine.capacity import raised, with_pods
from rollout.engine.observation import fingerprints
from rollout.engine.patches import begin
from rollout.engine.state import PREVIOUS, Phase, RolloutState, read_state
from rollout.errors import PlanError, Rejected, StateError
from rollout.manifest.parsing import to_dict
from rollout.manifest.predictor import Container, EnvVar, Predictor
from rollout.manifest.seldon import weight_words
from rollout.manifest.service_checks import find_problems
from rollout.plan.plan import Plan, Step
from rollout.targets.target import Operation, Snapshot

log = structlog.get_logger(__name__)
UNDO_INTERVAL_S = 1.0  # an undo is urgent, and nothing is analysed
VERSION_LABEL = "version"  # the operator's DestinationRule selects a predictor's pods by this label
NAMED_PORTS = ("http", "grpc", "metrics")


@dataclass(frozen=True, slots=True)
class FirstPatch:
    """The first patch of a rollout, and the state that it contains."""

    state: RolloutState
    operations: Sequence[Operation]


def start(snapshot: Snapshot, release: Release, plan: Plan, clock: Clock) -> FirstPatch:
    """Prepare the rollout of a release. Raises StateError, PlanError or Rejected; nothing is written."""
    return _begin(snapshot, predictor_for(_stable(snapshot), release), plan, clock)


def undo(snapshot: Snapshot, plan: Plan, clock: Clock) -> FirstPatch:
    """Prepare an undo after a rollout: the removed predictor is added again, and gets all requests when it is ready."""
    name, annotations = snapshot.deployment.name, snapshot.deployment.metadata.annotations
    kept, ended = annotations.get(PREVIOUS), True
    try:
        state = read_state(annotations)
        ended = state is None or state.phase is Phase.SUCCEEDED
    except StateError as error:  # the annotation of the removed predictor is enough
        log.warning("record_lost", detail=str(error))
    if kept is None or not ended:
        raise StateError(f"{name} remembers no earlier version; roll the wanted one out with `run`")
    try:
        previous = Predictor.model_validate(json.loads(kept))
    except ValueError as error:
        raise StateError(
            f"the annotation {PREVIOUS} of {name} cannot be read: {error}; roll the wanted version out with `run`"
        ) from error
    interval_s = min(plan.interval_s, UNDO_INTERVAL_S)
    back = replace(plan, steps=(Step(100, min_duration_s=0, min_requests=0),), interval_s=interval_s, analyse=False)
    return _begin(snapshot, previous, back, clock, beside_broken=True)


def _stable(snapshot: Snapshot) -> Predictor:
    """Return the one predictor that serves. Raises StateError when a rollout is, or may be, in progress."""
    deployment = snapshot.deployment
    try:
        running = read_state(deployment.metadata.annotations)
    except StateError:
        if deployment.canary is not None:
            raise
        running = None  # only the record of that rollout is left
    if running is not None and not running.phase.over:
        raise StateError(
            f"a rollout of {running.canary} is under way ({running.phase}: {running.message}); "
            "`resume` or `abort` it first"
        )
    if deployment.canary is not None:
        raise StateError(
            f"{deployment.name} has two predictors ({weight_words(deployment.traffic())}) and no record of a rollout: "
            f"`abort` returns all requests to {next(iter(deployment.traffic()))} and ends it"
        )
    return deployment.stable


def _begin(
    snapshot: Snapshot, canary: Predictor, plan: Plan, clock: Clock, *, beside_broken: bool = False
) -> FirstPatch:
    """Prepare the first patch. beside_broken: the predictor that serves need not be ready, because it is replaced."""
    deployment, stable = snapshot.deployment, _stable(snapshot)
    readiness = snapshot.readiness.get(stable.name)
    ready = readiness is not None and readiness.ready
    if not ready and not beside_broken:
        why = snapshot.problems.get(stable.name, "see its pods first")
        raise StateError(f"{stable.name} is not ready itself, so the mesh would not follow: {why}")
    serving = max(1, readiness.replicas) if readiness else 1
    scaling, before = raised(snapshot, stable.name, serving if ready else 0)
    pods = math.ceil(serving * plan.steps[0].load_percent / 100)
    canary, canary_before = with_pods(canary, pods)
    mirror_percent = plan.steps[0].mirror_percent
    after = deployment.with_predictor(canary).with_traffic({stable.name: 100, canary.name: 0})
    if mirror_percent:
        shadow = canary.but(shadow=True, traffic=mirror_percent)
        after = deployment.with_predictor(shadow).with_traffic({stable.name: 100})
    wrong = [problem for problem in find_problems(to_dict(after)) if problem.severity == "error"]
    if wrong:
        raise Rejected("; ".join(f"{problem.path}: {problem.message}" for problem in wrong))
    state = RolloutState(
        id=secrets.token_hex(4),
        plan=plan,
        stable=stable.name,
        canary=canary.name,
        analyse=plan.analyse,
        stable_pods=serving,
        scaling={stable.name: before, canary.name: canary_before},
        expected=fingerprints(after),
        reason="Started",
        message=f"{canary.name} was added {'as a shadow' if mirror_percent else 'at 0 %'} beside {stable.name}",
        started_at_s=round(clock.wall_s(), 3),
        nonce=f"{secrets.token_hex(4)}.0",
    )
    return FirstPatch(state, begin(snapshot, state, canary, scaling))


@dataclass(frozen=True, slots=True)
class Release:
    """A new version: the predictor's name (`v8`), any of image, model URI and environment of the container."""

    name: str
    image: str = ""
    model_uri: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a release without any change."""
        if not (self.image or self.model_uri or self.env):
            raise PlanError(f"release {self.name} brings nothing new; give --image, --model-uri or --env")


def predictor_for(stable: Predictor, release: Release) -> Predictor:
    """Return the predictor of a release: the stable predictor at 0 %, with the same resources, probes and scaling.

    Raises PlanError if the two would restart each other's pods, because the operator numbers undeclared ports.
    """
    declared = {port.name for port in stable.model_container.ports}
    if missing := [name for name in NAMED_PORTS if name not in declared]:
        raise PlanError(
            f"predictor {stable.name} declares no port named {', '.join(missing)}: the operator would number it by "
            f"position and restart pods when a predictor comes or goes; declare {', '.join(NAMED_PORTS)} first"
        )
    if release.name == stable.name:
        raise PlanError(f"{release.name} is the predictor that serves now; name the new one after its own version")
    predictor = stable.for_version(release.name, image=release.image, model_uri=release.model_uri)
    if predictor.labels.get(VERSION_LABEL) == stable.name:
        predictor = predictor.but(labels={**predictor.labels, VERSION_LABEL: release.name})
    return _with_env(predictor, release.env) if release.env else predictor


def _with_env(predictor: Predictor, values: Mapping[str, str]) -> Predictor:
    model = predictor.model_container.name

    def changed(container: Container) -> Container:
        if container.name != model:
            return container
        kept = tuple(env for env in container.env if env.name not in values)
        return container.but(env=(*kept, *(EnvVar(name=name, value=value) for name, value in values.items())))

    return predictor.but(
        component_specs=tuple(
            component.but(
                spec=component.spec.but(containers=tuple(changed(container) for container in component.spec.containers))
            )
            for component in predictor.component_specs
        )
    )
