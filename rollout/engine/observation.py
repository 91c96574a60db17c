"""One observation of a rollout, as the rules take it: deployment, mesh, evidence and a person's command.

A foreign change is a change of the deployment by another client during the rollout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollout.analysis.verdict import GateResult, Verdict, combine
from rollout.engine.analyst import Evidence
from rollout.engine.capacity import explain_need, pods_needed, pods_to_keep, pods_to_stay, stable_needed
from rollout.engine.state import COMMAND, Command, Phase, RolloutState
from rollout.manifest.parsing import to_dict
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment, weight_words
from rollout.targets.target import Snapshot


@dataclass(frozen=True, slots=True)
class Observation:
    """The result of one observation of the deployment.

    dt_s: seconds watched since the last one. ready: the canary has the ready pods that its present share needs.
    canary_pods, next_pods: its ready pods, and those that the next step needs. stable_pods, stable_needed: the ready
    pods of stable, and those that it needs to take all requests back (0: not known from a measured capacity).
    stable_ready: whether all its replicas are; while they are not, the operator writes no weights. problem: why pods
    are unready, as text. need: what the needed pods were computed from; empty: from stable's pods. follows: the mesh
    has the weights and the mirror of the state. reached: callers' requests reach the canary. exposed: both predictors
    exist, so the canary can do harm and stable can take its requests.
    foreign: the change of another client, as text; empty: none. restarts: that change makes the evidence invalid
    (another canary image). results: those of gates and checks, empty if nothing was analysed. The request counts are
    those since the last observation, and only while the mesh had the weights. callers_requests: all requests of callers
    in the last counted_s seconds.
    """

    dt_s: float
    ready: bool = True
    canary_pods: int = 1
    next_pods: int = 1
    stable_pods: int = 1
    stable_needed: int = 0
    stable_ready: bool = True
    problem: str = ""
    need: str = ""
    follows: bool = True
    reached: bool = True
    exposed: bool = True
    foreign: str = ""
    restarts: bool = False
    results: tuple[GateResult, ...] = ()
    canary_requests: int = 0
    stable_requests: int = 0
    callers_requests: int = 0
    counted_s: float = 0.0
    command: Command | None = None

    @property
    def verdict(self) -> Verdict:
        """The combined verdict of all gates."""
        return combine(self.results)

    @property
    def lacks_pods(self) -> bool:
        """Whether the weight must not rise yet."""
        return self.canary_pods < self.next_pods or self.stable_pods < self.stable_needed


def follows(snapshot: Snapshot, state: RolloutState) -> bool:
    """Return whether the mesh has the weights and the mirror of the state."""
    if snapshot.mesh_mirrors.get(state.canary, 0) != state.mirror_percent:
        return False
    if state.step < 0 and not state.mirror_percent and state.canary not in snapshot.mesh_weights:
        return False  # at 0 % a route to the canary proves that its pods were all ready
    return same_weights(snapshot.mesh_weights, state.weights)


def observe(
    snapshot: Snapshot, state: RolloutState, evidence: Evidence, dt_s: float, command: Command | None
) -> Observation:
    """Compare the deployment with the state. The results are those of the gates, then those of the checks.

    command: from this command line; it takes precedence over the annotation.
    """
    deployment = snapshot.deployment
    word = deployment.metadata.annotations.get(COMMAND)
    said = command or (Command(word) if word in list(Command) else None)
    change = foreign_change(state, deployment)
    canary = next((one for one in deployment.predictors if one.name == state.canary), None)
    readiness = snapshot.readiness.get(state.canary)
    pods = readiness.available if readiness else 0
    stable = snapshot.readiness.get(state.stable)
    state = state.but(traffic=state.traffic.after(evidence.callers_requests, evidence.seconds))
    steps, last = state.plan.steps, state.plan.last
    following = last if Command.PROMOTE_FULL in (said, state.requested) else min(state.step + 1, last)
    wanted = pods_to_keep(state, canary, steps[max(state.step, 0)].load_percent)
    if state.phase is Phase.FINISHING:  # its autoscaler decides again
        wanted = 1
    return Observation(
        dt_s=dt_s,
        ready=pods >= pods_to_stay(wanted),
        canary_pods=pods,
        next_pods=pods_needed(state, canary, steps[following].load_percent),
        stable_pods=stable.available if stable else 0,
        stable_needed=stable_needed(state, deployment),
        stable_ready=stable is not None and stable.ready,
        problem="; ".join(f"{name}: {why}" for name, why in snapshot.problems.items()),
        need=explain_need(state, canary),
        follows=follows(snapshot, state),
        reached=snapshot.mesh_weights.get(state.canary, 0) > 0,
        exposed={state.stable, state.canary} <= {predictor.name for predictor in deployment.predictors},
        foreign=change.message,
        restarts=change.restarts,
        results=tuple(_accepted(one, state.accepted) for one in (*evidence.results, *state.checks)),
        canary_requests=evidence.requests.get(state.canary, 0),
        stable_requests=evidence.requests.get(state.stable, 0),
        callers_requests=evidence.callers_requests,
        counted_s=evidence.seconds,
        command=said,
    )


def _accepted(result: GateResult, accepted: Sequence[str]) -> GateResult:
    return result.accepted() if result.asks and result.name in accepted else result


@dataclass(frozen=True, slots=True)
class ForeignChange:
    """A change as text; empty: none. restarts: the evidence so far is of another version."""

    message: str = ""
    restarts: bool = False


NONE = ForeignChange()


def fingerprints(deployment: SeldonDeployment) -> dict[str, str]:
    """Return, per predictor, what determines its answers: the image, and a hash of graph, images and environment.

    Traffic is compared separately; replicas and autoscaling may change at any time.
    """
    return {predictor.name: _fingerprint(predictor) for predictor in deployment.predictors}


def foreign_change(state: RolloutState, deployment: SeldonDeployment) -> ForeignChange:
    """Compare the deployment with what the rollout wrote."""
    expected, found = state.expected, fingerprints(deployment)
    said = []
    if gone := sorted(expected.keys() - found.keys()):
        said.append(f"predictor {', '.join(gone)} is gone")
    if new := sorted(found.keys() - expected.keys()):
        said.append(f"predictor {', '.join(new)} is new")
    said += [
        f"{name} was {_image(expected[name])} and is {_image(found[name])}"
        if _image(expected[name]) != _image(found[name])
        else f"the graph or the environment of {name} has changed"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    restarts = bool(said)
    if not said and not same_weights(deployment.weights(), state.weights):
        said.append(
            f"weights are {weight_words(deployment.weights())}, this rollout set {weight_words(state.weights)} "
            "(a GitOps tool must be configured to ignore /spec/predictors)"
        )
    return ForeignChange("; ".join(said), restarts) if said else NONE


def same_weights(found: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Whether two weights send the requests to the same predictors: an absent predictor counts as 0 %."""
    return all(found.get(name, 0) == wanted.get(name, 0) for name in found.keys() | wanted.keys())


def _fingerprint(predictor: Predictor) -> str:
    graph = json.dumps(to_dict(predictor)["graph"], sort_keys=True)
    containers = [
        (container.name, container.image, sorted(env.model_dump_json(by_alias=True) for env in container.env))
        for container in predictor.containers()
    ]
    images = ",".join(container.image for container in predictor.containers() if container.image)
    digest = hashlib.sha256(json.dumps([graph, containers], sort_keys=True).encode()).hexdigest()[:12]
    return f"{digest} {images}"


def _image(fingerprint: str) -> str:
    return fingerprint.partition(" ")[2]
