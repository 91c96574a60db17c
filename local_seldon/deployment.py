"""The requirements of one SeldonDeployment on this machine: file, replicas, templates, unsupported fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from local_seldon.errors import Unsupported
from rollout.errors import ManifestError, RolloutError
from rollout.manifest.parsing import parse, read_documents, to_dict
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import API_VERSION, KIND, SeldonDeployment
from rollout.targets.local_store import LocalStore

log = structlog.get_logger()

APPLIED = "applied.sha256"
"""The file with the digest of the manifest that the live object was made from."""
TERMINATION_GRACE_S = 20.0
"""The operator's value for a pod without terminationGracePeriodSeconds."""
PREPACKAGED = {"SKLEARN_SERVER": "mlserver_sklearn.SKLearnModel", "XGBOOST_SERVER": "mlserver_xgboost.XGBoostModel"}
"""Prepackaged servers that run here under the V2 protocol, and the runtime that the operator names to MLServer."""
# These change without a new pod: the operator applies them to the mesh, the HPA or the number of replicas.
NOT_IN_THE_POD = ("traffic", "replicas", "name")


def read_manifest(content: bytes) -> SeldonDeployment:
    """Read the only SeldonDeployment of a YAML stream; other objects are ignored. Raises ManifestError."""
    found = [one for one in read_documents(content) if (one.get("apiVersion"), one.get("kind")) == (API_VERSION, KIND)]
    if len(found) != 1:
        raise ManifestError(f"the manifest has {len(found)} SeldonDeployments; it must have one")
    return parse(found[0])


def check_supported(deployment: SeldonDeployment) -> None:
    """Raise Unsupported for what needs a cluster. Sidecars are ignored without a message: they serve no requests."""
    for predictor in deployment.predictors:
        for unit in predictor.graph.nodes():
            if unit.implementation and unit.implementation not in PREPACKAGED:
                raise Unsupported(
                    f"predictor {predictor.name} uses the prepackaged server {unit.implementation}; here run "
                    f"{', '.join(PREPACKAGED)}, and containers of their own"
                )
        root = predictor.graph
        if root.implementation and not root.children:
            raise Unsupported(
                f"predictor {predictor.name} is the prepackaged server {root.implementation} alone; here it runs as a "
                "node of a graph"
            )
        if root.children and "seldon.io/no-engine" in predictor.annotations:
            raise Unsupported(f"predictor {predictor.name} has a graph of several nodes, which needs the engine")


def replicas(deployment: SeldonDeployment, predictor: Predictor, asked: int | None = None) -> int:
    """Return the desired number of replicas of a predictor: the nearest `replicas` field, else 1.

    With hpaSpec the operator ignores every `replicas` field, and the autoscaler decides: its target (None on an
    idle machine), limited by minReplicas and maxReplicas.
    """
    component = predictor.component_specs[0]
    if component.hpa_spec is not None:
        least, most = component.hpa_spec.min_replicas or 1, component.hpa_spec.max_replicas
        return max(least, min(asked or 1, most))
    general = (deployment.spec.model_extra or {}).get("replicas")
    for number in (component.replicas, predictor.replicas, general):
        if number is not None:
            return int(number)
    return 1


def autoscaled(predictor: Predictor) -> bool:
    """Return whether an autoscaler sets the number of replicas; its Deployment then starts with one."""
    return predictor.component_specs[0].hpa_spec is not None


def template(predictor: Predictor) -> str:
    """Return a hash of everything whose change needs a new pod."""
    document = to_dict(predictor)
    kept = {key: value for key, value in document.items() if key not in NOT_IN_THE_POD}
    kept["componentSpecs"] = [
        {key: value for key, value in component.items() if key not in ("hpaSpec", "pdbSpec", "replicas")}
        for component in document.get("componentSpecs", [])
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def grace_s(predictor: Predictor) -> float:
    """Return the time that a replica has to drain."""
    configured = predictor.component_specs[0].spec.termination_grace_period_seconds
    return TERMINATION_GRACE_S if configured is None else float(configured)


def status(
    deployment: SeldonDeployment, scale: Mapping[str, tuple[int, int]], *, url: str, failures: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `.status` as the operator writes it; scale: replicas wanted and available, by predictor."""
    failed = "; ".join(failures)
    ready = all(0 < wanted <= ready for wanted, ready in (scale.get(one.name, (1, 0)) for one in deployment.predictors))
    return {
        "state": "Failed" if failed else "Available" if ready else "Creating",
        "description": failed,
        "replicas": sum(available for _, available in scale.values()),
        "address": {"url": url},
        "deploymentStatus": {
            name: {"replicas": wanted, "availableReplicas": available}
            for predictor, (wanted, available) in scale.items()
            for name in deployment.deployment_names(predictor)
        },
    }


class ManifestFile:
    """The file of a deployment, applied whenever it changes, as `kubectl apply` would.

    refused: the file's current problem; empty if there is none.
    """

    def __init__(self, path: Path, store: LocalStore) -> None:
        self._path = path
        self._store = store
        self._applied = ""
        self.refused = ""

    def apply(self, *, first: bool = False) -> bool:
        """Apply the file if its content is new, and return whether it was. Raises only the first time."""
        applied_before = self._store.directory / APPLIED
        try:
            content = self._path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest == self._applied:
                return False
            self._applied = digest
            known = applied_before.read_text() if applied_before.exists() else ""
            if first and known == digest and self._store.object_file.exists():
                return False  # after a crash: changes that a rollout made are kept
            self._store.put(to_dict(read_manifest(content)))
            applied_before.write_text(digest)
            self.refused = ""
            log.info("manifest_applied", file=str(self._path))
        except (OSError, RolloutError) as error:
            if first:
                raise
            self.refused = f"{self._path}: {error}"
            log.warning("manifest_refused", file=str(self._path), error=str(error))
        return True
