"""What one SeldonDeployment asks of this machine: replicas, templates, and what only a cluster can do. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from local_seldon.errors import Unsupported
from rollout.errors import ManifestError
from rollout.manifest.parsing import parse, read_documents, to_dict
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import API_VERSION, KIND, SeldonDeployment

TERMINATION_GRACE_S = 20.0
"""What the operator sets where a pod has no terminationGracePeriodSeconds."""
# These change without a new pod: the operator writes them into the mesh, the HPA or the number of replicas.
NOT_IN_THE_POD = ("traffic", "replicas", "name")


def read_manifest(content: bytes) -> SeldonDeployment:
    """Read the one SeldonDeployment of a YAML stream, whatever else is in it. Raises ManifestError."""
    found = [one for one in read_documents(content) if (one.get("apiVersion"), one.get("kind")) == (API_VERSION, KIND)]
    if len(found) != 1:
        raise ManifestError(f"the manifest has {len(found)} SeldonDeployments; it must have one")
    return parse(found[0])


def check_supported(deployment: SeldonDeployment) -> None:
    """Raise Unsupported for what only a cluster can do; sidecars are left out silently, they serve no requests."""
    for predictor in deployment.predictors:
        if predictor.shadow:
            raise Unsupported(f"predictor {predictor.name} is a shadow; Caddy cannot mirror requests: use a cluster")
        if predictor.graph.children:
            raise Unsupported(f"predictor {predictor.name} has a graph of several nodes; one runs here: use a cluster")
        if predictor.graph.implementation:
            raise Unsupported(
                f"predictor {predictor.name} uses the prepackaged server {predictor.graph.implementation}; here a "
                "predictor needs a container of its own"
            )


def replicas(deployment: SeldonDeployment, predictor: Predictor) -> int:
    """Return how many replicas a predictor has: hpaSpec's least, else the nearest `replicas` field, else 1."""
    component = predictor.component_specs[0]
    if component.hpa_spec is not None:  # the operator ignores every `replicas` field then
        return component.hpa_spec.min_replicas or 1
    general = (deployment.spec.model_extra or {}).get("replicas")
    for number in (component.replicas, predictor.replicas, general):
        if number is not None:
            return int(number)
    return 1


def template(predictor: Predictor) -> str:
    """Return a hash of all that a new pod would be needed for."""
    document = to_dict(predictor)
    kept = {key: value for key, value in document.items() if key not in NOT_IN_THE_POD}
    kept["componentSpecs"] = [
        {key: value for key, value in component.items() if key not in ("hpaSpec", "pdbSpec", "replicas")}
        for component in document.get("componentSpecs", [])
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def grace_s(predictor: Predictor) -> float:
    """Return how long a replica may take to drain."""
    configured = predictor.component_specs[0].spec.termination_grace_period_seconds
    return TERMINATION_GRACE_S if configured is None else float(configured)


def status(
    deployment: SeldonDeployment, available: Mapping[str, int], *, url: str, failures: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `.status` as the operator writes it; available: replicas that are ready, by predictor."""
    wanted = {predictor.name: replicas(deployment, predictor) for predictor in deployment.predictors}
    failed = "; ".join(failures)
    ready = all(available.get(name, 0) >= number for name, number in wanted.items())
    return {
        "state": "Failed" if failed else "Available" if ready else "Creating",
        "description": failed,
        "replicas": sum(available.values()),
        "address": {"url": url},
        "deploymentStatus": {
            name: {"replicas": wanted[predictor.name], "availableReplicas": available[predictor.name]}
            for predictor in deployment.predictors
            if predictor.name in available
            for name in deployment.deployment_names(predictor.name)
        },
    }
