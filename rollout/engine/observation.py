"""One observation of a rollout: the deployment, its mesh, the evidence and a person's command, as the rules take them.

A foreign change is what somebody else did to the deployment while the rollout was under way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from rollout.analysis.verdict import GateResult, Verdict, combine
from rollout.engine.analyst import Evidence
from rollout.engine.capacity import pods_needed, pods_to_stay
from rollout.engine.state import COMMAND, Command, Phase, RolloutState
from rollout.manifest.parsing import to_dict
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.target import Snapshot


@dataclass(frozen=True, slots=True)
class Observation:
    """What one observation of the deployment gave.

    dt_s: seconds watched since the last observation. ready: the canary has the ready pods that its present share needs.
    canary_pods, next_pods: the ready pods that it has, and those that the next step needs. problem: why pods are not
    ready, in words.
    follows: the mesh has the weights that the state asks for. exposed: both predictors exist, so that the canary may
    do harm and stable can take its requests. foreign: what somebody else changed, in words; empty: nothing. restarts:
    that change makes the evidence worthless (another canary image). results: what the gates say, empty where nothing
    was analysed. The request counts are those since the last observation, and only while the mesh followed.
    """

    dt_s: float
    ready: bool = True
    canary_pods: int = 1
    next_pods: int = 1
    problem: str = ""
    follows: bool = True
    exposed: bool = True
    foreign: str = ""
    restarts: bool = False
    results: tuple[GateResult, ...] = ()
    canary_requests: int = 0
    stable_requests: int = 0
    command: Command | None = None

    @property
    def verdict(self) -> Verdict:
        """All gates together."""
        return combine(self.results)


def observe(
    snapshot: Snapshot, state: RolloutState, evidence: Evidence, dt_s: float, command: Command | None
) -> Observation:
    """Compare what is there with what the state asks for.

    command: from this command line; it precedes the annotation's.
    """
    deployment = snapshot.deployment
    follows = same_weights(snapshot.mesh_weights, state.weights)
    if state.step < 0:  # at 0 % a route for the canary is the proof that its pods were all ready
        follows = follows and state.canary in snapshot.mesh_weights
    word = deployment.metadata.annotations.get(COMMAND)
    said = command or (Command(word) if word in list(Command) else None)
    change = foreign_change(state, deployment)
    canary = next((one for one in deployment.predictors if one.name == state.canary), None)
    readiness = snapshot.readiness.get(state.canary)
    pods = readiness.available if readiness else 0
    steps, last = state.plan.steps, state.plan.last
    following = last if Command.PROMOTE_FULL in (said, state.requested) else min(state.step + 1, last)
    wanted = pods_needed(state, canary, steps[max(state.step, 0)].weight_percent)
    if state.phase is Phase.FINISHING:  # its autoscaler decides again
        wanted = 1
    return Observation(
        dt_s=dt_s,
        ready=pods >= pods_to_stay(wanted),
        canary_pods=pods,
        next_pods=pods_needed(state, canary, steps[following].weight_percent),
        problem="; ".join(f"{name}: {why}" for name, why in snapshot.problems.items()),
        follows=follows,
        exposed={state.stable, state.canary} <= {predictor.name for predictor in deployment.predictors},
        foreign=change.message,
        restarts=change.restarts,
        results=evidence.results,
        canary_requests=evidence.requests.get(state.canary, 0),
        stable_requests=evidence.requests.get(state.stable, 0),
        command=said,
    )


@dataclass(frozen=True, slots=True)
class ForeignChange:
    """A change in words; empty: none. restarts: the evidence gathered so far was for something else."""

    message: str = ""
    restarts: bool = False


NONE = ForeignChange()


def fingerprints(deployment: SeldonDeployment) -> dict[str, str]:
    """Return, per predictor, what decides how it answers: the image, and a hash of graph, images and environment.

    Traffic is compared by itself; replicas and autoscaling may change at any time.
    """
    return {predictor.name: _fingerprint(predictor) for predictor in deployment.predictors}


def foreign_change(state: RolloutState, deployment: SeldonDeployment) -> ForeignChange:
    """Compare the deployment with what the rollout left there."""
    expected, found = state.expected, fingerprints(deployment)
    said = []
    if gone := sorted(expected.keys() - found.keys()):
        said.append(f"predictor {', '.join(gone)} is gone")
    if new := sorted(found.keys() - expected.keys()):
        said.append(f"predictor {', '.join(new)} is new")
    said += [
        f"{name} was {_image(expected[name])} and is {_image(found[name])}"
        if _image(expected[name]) != _image(found[name])
        else f"the graph or the environment of {name} is another one"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    restarts = bool(said)
    if not said and not same_weights(deployment.weights(), state.weights):
        said.append(
            f"weights are {deployment.weights()}, this rollout set {state.weights} "
            "(a GitOps tool must be told to ignore /spec/predictors)"
        )
    return ForeignChange("; ".join(said), restarts) if said else NONE


def same_weights(found: Mapping[str, int], wanted: Mapping[str, int]) -> bool:
    """Whether two weights send the requests to the same places: an absent predictor is one at 0 %."""
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
