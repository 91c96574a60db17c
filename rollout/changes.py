"""What somebody else did to the deployment while a rollout was under way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from rollout.manifest import to_dict
from rollout.predictor import Predictor
from rollout.seldon import SeldonDeployment
from rollout.state import RolloutState


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
