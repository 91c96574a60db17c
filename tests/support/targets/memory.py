"""A SeldonDeployment in a dictionary, with an operator that behaves as Seldon's does, frozen weights included."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollout.clock import Clock
from rollout.errors import Conflict, Rejected, Unavailable
from rollout.manifest.parsing import parse
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment
from rollout.manifest.webhook_rules import webhook
from rollout.targets.local_store import apply
from rollout.targets.target import Address, Event, LeaseRecord, Operation, Readiness, Snapshot

WEBHOOK = '"v1.vseldondeployment.kb.io"'


def reconcile(
    deployment: SeldonDeployment, readiness: Mapping[str, Readiness], mesh_weights: Mapping[str, int]
) -> Mapping[str, int]:
    """Return the mesh's weights after the operator looked: the spec's if everything is ready, else what they were."""
    ready = all(name in readiness and readiness[name].ready for name in (p.name for p in deployment.predictors))
    return deployment.weights() if ready else mesh_weights


def mirrored(deployment: SeldonDeployment) -> dict[str, int]:
    """Return the percentages that the operator writes as mirrors."""
    return {predictor.name: predictor.traffic or 100 for predictor in deployment.predictors if predictor.shadow}


def status(deployment: SeldonDeployment, readiness: Mapping[str, Readiness]) -> dict[str, Any]:
    """Return the status that the operator writes. As there, nothing in it says which edit it belongs to."""
    ready = all(name in readiness and readiness[name].ready for name in (p.name for p in deployment.predictors))
    return {
        "state": "Available" if ready else "Creating",
        "deploymentStatus": {
            name: {"replicas": found.replicas, "availableReplicas": found.available}
            for predictor, found in readiness.items()
            if predictor in {one.name for one in deployment.predictors}
            for name in deployment.deployment_names(predictor)
        },
    }


class MemoryTarget:
    """Target and LeaseStore in one object. Time passes by the clock alone.

    starts_in_s: how long a new predictor's pods take to be ready. unready: predictors whose pods are not. before:
    called with the method's name first; what it raises is what an API server would answer. operator_alive: while it
    is False every patch is refused, as by a webhook that does not answer, and neither weights nor status follow.
    refuses: the webhook of a living operator refuses every patch. watches_mesh: whether the operator writes the mesh
    again after somebody else did, and not only after a change of the spec.
    A predictor with an autoscaler has minReplicas pods, the others `replicas`; each pod takes starts_in_s. room: how
    many pods of a predictor can be scheduled. problems: why pods are not ready, as a cluster would say.
    """

    def __init__(
        self, manifest: Mapping[str, Any], clock: Clock, *, starts_in_s: float = 0.0, replicas: int = 1
    ) -> None:
        self._manifest = copy.deepcopy(dict(manifest))
        self._manifest["metadata"] = {**self._manifest["metadata"], "resourceVersion": "1", "generation": 1}
        self._clock = clock
        self._starts_in_s = starts_in_s
        self._replicas = replicas
        self._lease = LeaseRecord()
        self._pods = {one.name: [float("-inf")] * self._wanted(one) for one in parse(manifest).predictors}
        self.room: dict[str, int] = {}
        self.problems: dict[str, str] = {}
        self.mesh_weights: Mapping[str, int] = parse(manifest).weights()
        self.mesh_mirrors: dict[str, int] = {}
        self._shadows: dict[str, bool] = {}
        self.addresses: dict[str, Address] = {}
        self.unready: set[str] = set()
        self.operator_alive = True
        self.refuses = False
        self.watches_mesh = True
        self._reconciled = 0
        self.events: list[Event] = []
        self.forgotten: list[str] = []
        self.before: Callable[[str], None] = lambda method: None

    def read(self) -> Snapshot:
        """Run the operator, then return the deployment."""
        self.before("read")
        return self._look()

    def patch(self, operations: Sequence[Operation], *, dry_run: bool = False) -> Snapshot:
        """Apply a JSON Patch; the webhook judges the result."""
        self.before("patch")
        self._look()
        patched = apply(self._manifest, operations)
        if not self.operator_alive:
            raise Unavailable(f"500 Internal error occurred: failed calling webhook {WEBHOOK}: connection refused")
        if self.refuses:
            raise Rejected(f"422 admission webhook {WEBHOOK} denied the request")
        if refused := [finding.message for finding in webhook(parse(patched)) if finding.severity == "error"]:
            raise Rejected("; ".join(refused))
        if dry_run:
            return Snapshot(patched, self._readiness(), dict(self.mesh_weights))
        self.edit(patched)
        return self._look()

    def route(self, weights: Mapping[str, int]) -> None:
        """Write the mesh itself."""
        self.before("route")
        self.mesh_weights = dict(weights)

    def forget(self, predictor: str) -> None:
        """Record the call."""
        self.before("forget")
        self.forgotten.append(predictor)

    def publish(self, event: Event) -> None:
        """Keep the event."""
        self.before("publish")
        self.events.append(event)

    def read_lease(self) -> LeaseRecord:
        """Return the lease."""
        self.before("read_lease")
        return self._lease

    def write_lease(self, record: LeaseRecord) -> LeaseRecord:
        """Compare and swap the lease."""
        self.before("write_lease")
        if record.version != self._lease.version:
            raise Conflict(f"the lease is at version {self._lease.version}, not {record.version}")
        self._lease = replace(record, version=str(int(record.version or "0") + 1))
        return self._lease

    def edit(self, manifest: Mapping[str, Any]) -> None:
        """Store a manifest, as any client may; the version grows, the generation with the spec."""
        before = self._manifest
        self._manifest = copy.deepcopy(dict(manifest))
        self._manifest["metadata"] |= {
            "resourceVersion": str(int(before["metadata"]["resourceVersion"]) + 1),
            "generation": before["metadata"]["generation"] + (before["spec"] != self._manifest["spec"]),
        }

    def _look(self) -> Snapshot:
        deployment = parse(self._manifest)
        for predictor in deployment.predictors:
            pods = self._pods.setdefault(predictor.name, [])
            wanted = self._wanted(predictor)
            pods += [self._clock.monotonic_s()] * (wanted - len(pods))
            del pods[wanted:]
            if self._shadows.setdefault(predictor.name, predictor.shadow) is not predictor.shadow:
                self._shadows[predictor.name] = predictor.shadow  # the operator replaces the pods
                pods[:] = [self._clock.monotonic_s()] * wanted
        for name in self._pods.keys() - {predictor.name for predictor in deployment.predictors}:
            del self._pods[name]
            self._shadows.pop(name, None)
        readiness = self._readiness()
        if self.operator_alive:
            generation = self._manifest["metadata"]["generation"]
            weights = reconcile(deployment, readiness, self.mesh_weights)
            if self.watches_mesh or generation != self._reconciled:
                self.mesh_weights = weights
                self._reconciled = generation if weights == deployment.weights() else 0
            if all(one.ready for one in readiness.values()):
                self.mesh_mirrors = mirrored(deployment)
            self._manifest["status"] = status(deployment, readiness)
        return Snapshot(
            copy.deepcopy(self._manifest),
            readiness,
            dict(self.mesh_weights),
            dict(self.problems),
            dict(self.mesh_mirrors),
            {
                one.name: self.addresses.get(one.name, Address(f"http://churn-{one.name}.models:9000"))
                for one in deployment.predictors
            },
        )

    def _readiness(self) -> dict[str, Readiness]:
        now_s = self._clock.monotonic_s()
        return {
            name: Readiness(
                len(pods),
                0
                if name in self.unready
                else sum(now_s - born_s >= self._starts_in_s for born_s in pods[: self.room.get(name, len(pods))]),
            )
            for name, pods in self._pods.items()
        }

    def _wanted(self, predictor: Predictor) -> int:
        scaler = predictor.component_specs[0].hpa_spec if predictor.component_specs else None
        return (scaler.min_replicas or 1) if scaler else (predictor.replicas or self._replicas)
