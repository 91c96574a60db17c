"""A SeldonDeployment in a cluster, through the official client.

Needs only the rights in seldon/base/promoter-role.yaml: get and patch of one SeldonDeployment and one VirtualService,
one Lease, Events, delete of DestinationRules; Deployments and pods are only read. Readiness comes from the Deployments,
because the status of the SeldonDeployment is out of date when its operator is dead. Weights come from the routes of the
Istio VirtualService as the operator writes it: one HTTP route for REST, one for gRPC.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from kubernetes import client

from rollout.errors import Conflict, Denied, NotFound, Rejected, TargetError
from rollout.manifest.parsing import parse
from rollout.manifest.predictor import Predictor
from rollout.manifest.seldon import SeldonDeployment, Status
from rollout.targets.kubernetes_connection import Connection
from rollout.targets.kubernetes_lease import KubernetesLease, micro_time
from rollout.targets.local_store import first_conflict
from rollout.targets.place import Place
from rollout.targets.target import Address, Event, LeaseRecord, Operation, Pod, Readiness, Snapshot

log = structlog.get_logger(__name__)
SELDON: dict[str, Any] = {"group": "machinelearning.seldon.io", "version": "v1", "plural": "seldondeployments"}
ISTIO: dict[str, Any] = {"group": "networking.istio.io", "version": "v1beta1", "plural": "virtualservices"}
DEPLOYMENT: dict[str, Any] = {"group": "apps", "version": "v1", "plural": "deployments"}
MOST_REASONS = 4
HTTP_PORT = 9000
JSON_PATCH = "application/json-patch+json"
FIELD_MANAGER = "serving-rollout"
EVENT_NOTE_MAX_CHARS = 1024  # events.k8s.io/v1 rejects a longer note


class KubernetesTarget:
    """Target and LeaseStore for one SeldonDeployment; the lease is named `<deployment>-rollout`."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._namespace = connection.namespace
        self._connection = connection
        self._lease = KubernetesLease(f"{name}-rollout", connection)
        # The client imports this class and its 247 modules at the first use: 1.7 s of a processor, 13 s of one that is
        # shared. Now, and not in a read while the lease runs out.
        self._core: Any = client.CoreV1Api

    @property
    def place(self) -> Place:
        """The options that name this deployment, and its audit trail."""
        return Place.in_cluster(self._name, self._namespace, self._connection.context)

    def read(self) -> Snapshot:
        """Return the deployment with the weights of its VirtualService. Raises TargetError."""
        return self._snapshot(self._get(SELDON, self._name))

    def patch(self, operations: Sequence[Operation], *, dry_run: bool = False) -> Snapshot:
        """Apply a JSON Patch with strict field validation; dry_run: the server checks it and stores nothing."""
        try:
            manifest = self._patch(SELDON, self._name, operations, **({"dry_run": "All"} if dry_run else {}))
        except Rejected as error:
            # A failed `test` is a 422 like an invalid object: only the object itself shows which of the two it was.
            if path := first_conflict(self._get(SELDON, self._name), operations):
                raise Conflict(f"{path} of {self._name} is not what it was when the patch was written") from error
            raise
        return self._snapshot(manifest)

    def route(self, weights: Mapping[str, int]) -> None:
        """Write the VirtualService's weights for both REST and gRPC."""
        deployment = parse(self._get(SELDON, self._name))
        services = {deployment.service_name(name): name for name in deployment.traffic()}
        name = deployment.virtual_service_name
        self._patch(ISTIO, name, reweighted(self._get(ISTIO, name), services, weights))

    def pods(self) -> list[Pod]:
        """Return the pods of all predictors, oldest first. Raises TargetError; Denied without the right to list."""
        found = self._connection.call(
            "list pods",
            self._core.list_namespaced_pod,
            namespace=self._namespace,
            label_selector=f"seldon-deployment-id={self._name}",
        )
        return sorted((_pod(pod) for pod in found.items), key=lambda pod: pod.created_at_s or 0.0)

    def forget(self, predictor: str) -> None:
        """Delete the predictor's DestinationRule, which the operator never does. Raises TargetError.

        While a VirtualService still names its subset, the rule stays, because requests would get 503 without it.
        """
        snapshot = self.read()
        deployment = snapshot.deployment
        service = deployment.default_service_name(predictor)
        present = predictor in {one.name for one in deployment.predictors}
        routed = {_service(host) for host in snapshot.mesh_weights}
        if present or not routed or routed & {predictor, service}:
            return
        try:
            self._connection.call(
                f"delete destinationrules {service}",
                client.CustomObjectsApi.delete_namespaced_custom_object,
                **ISTIO | {"plural": "destinationrules"},
                namespace=self._namespace,
                name=service,
            )
        except NotFound:
            return

    def publish(self, event: Event) -> None:
        """Create an Event about the SeldonDeployment; `kubectl describe` and `kubectl events` show it."""
        regarding = client.V1ObjectReference(
            api_version=f"{SELDON['group']}/{SELDON['version']}",
            kind="SeldonDeployment",
            name=self._name,
            namespace=self._namespace,
        )
        body = client.EventsV1Event(
            metadata=client.V1ObjectMeta(name=f"{self._name}.{secrets.token_hex(8)}", namespace=self._namespace),
            event_time=micro_time(datetime.now(UTC).timestamp()),
            reporting_controller=FIELD_MANAGER,
            reporting_instance=self._connection.identity,
            action="Rollout",
            type=event.type.value,
            reason=event.reason,
            note=event.message[:EVENT_NOTE_MAX_CHARS],
            regarding=regarding,
        )
        self._connection.call(
            "create an Event", client.EventsV1Api.create_namespaced_event, namespace=self._namespace, body=body
        )

    def read_lease(self) -> LeaseRecord:
        """Return the lease; LeaseRecord() when it does not exist yet."""
        return self._lease.read_lease()

    def write_lease(self, record: LeaseRecord) -> LeaseRecord:
        """Create or replace the lease at the version in the record. Raises Conflict."""
        return self._lease.write_lease(record)

    def _get(self, kind: Mapping[str, str], name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._connection.call(
            f"get {kind['plural']} {name}",
            client.CustomObjectsApi.get_namespaced_custom_object,
            **kind,
            namespace=self._namespace,
            name=name,
        )
        return found

    def _patch(
        self, kind: Mapping[str, str], name: str, operations: Sequence[Operation], **options: str
    ) -> dict[str, Any]:
        patched: dict[str, Any] = self._connection.call(
            f"patch {kind['plural']} {name}",
            client.CustomObjectsApi.patch_namespaced_custom_object,
            **kind,
            **options,
            namespace=self._namespace,
            name=name,
            body=[dict(operation) for operation in operations],
            field_manager=FIELD_MANAGER,
            field_validation="Strict",
            _content_type=JSON_PATCH,
        )
        return patched

    def _snapshot(self, manifest: dict[str, Any]) -> Snapshot:
        deployment = parse(manifest)
        services = {deployment.service_name(one.name): one.name for one in deployment.predictors}
        try:
            virtual_service = self._get(ISTIO, deployment.virtual_service_name)
            routed, copied = weights(virtual_service, services), mirrors(virtual_service, services)
        except NotFound:
            routed, copied = {}, {}  # the operator writes it once all pods are ready for the first time
        readiness, problems = {}, {}
        for predictor in deployment.predictors:
            parts = [self._part(name, deployment.status) for name in deployment.deployment_names(predictor.name)]
            if parts and all(parts):
                readiness[predictor.name] = _joined([part for part in parts if part])
            if not (predictor.name in readiness and readiness[predictor.name].ready):
                problems[predictor.name] = "; ".join(self._reasons(deployment, predictor.name))
        return Snapshot(
            manifest,
            readiness,
            routed,
            {name: why for name, why in problems.items() if why},
            mesh_mirrors=copied,
            addresses={one.name: self._address(deployment, one) for one in deployment.predictors},
        )

    def _address(self, deployment: SeldonDeployment, predictor: Predictor) -> Address:
        """Return the address of a predictor's Service; the operator gives it the port of the container (no engine)."""
        port = next((one.container_port for one in predictor.model_container.ports if one.name == "http"), HTTP_PORT)
        return Address(f"http://{deployment.service_name(predictor.name)}.{self._namespace}:{port}")

    def _part(self, name: str, status: Status | None) -> Readiness | None:
        """Return the readiness of one Deployment: from itself, or without the right from the status."""
        try:
            found = self._get(DEPLOYMENT, name)
        except NotFound:
            return None
        except Denied:  # a role from before Deployments were read
            known = status.deployment_status.get(name) if status else None
            return Readiness(known.replicas, known.available_replicas) if known else None
        wanted = found.get("spec", {}).get("replicas", 1)
        return Readiness(wanted, min(wanted, (found.get("status") or {}).get("availableReplicas", 0)))

    def _reasons(self, deployment: SeldonDeployment, predictor: str) -> list[str]:
        """Return why a predictor's pods are not ready: conditions, pods, the operator's message."""
        reasons: list[str] = []
        try:
            for name in deployment.deployment_names(predictor):
                found = self._get(DEPLOYMENT, name)
                reasons += deployment_problems(found)
                labels = found.get("spec", {}).get("selector", {}).get("matchLabels") or {}
                for pod in self._pods(labels):
                    reasons += pod_problems(pod)
        except TargetError as error:
            log.info("no_reasons", predictor=predictor, detail=str(error))
        if deployment.status and deployment.status.state == "Failed" and deployment.status.description:
            reasons.append(f"operator: {deployment.status.description}")
        return list(dict.fromkeys(reasons))[:MOST_REASONS]

    def _pods(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        if not labels:
            return []
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        answer = self._connection.call(
            "list pods",
            self._core.list_namespaced_pod,
            namespace=self._namespace,
            label_selector=selector,
            _preload_content=False,
        )
        found = json.loads(answer.data)
        return list(found.get("items", []))


def probe(namespace: str = "") -> None:
    """Check that the SeldonDeployments of a namespace (empty: of all) can be listed. Raises TargetError."""
    listing: Any = client.CustomObjectsApi.list_cluster_custom_object
    where = SELDON
    if namespace:
        listing, where = client.CustomObjectsApi.list_namespaced_custom_object, SELDON | {"namespace": namespace}
    Connection(namespace=namespace).call("list seldondeployments", listing, **where, limit=1)


def _joined(parts: Sequence[Readiness]) -> Readiness:
    """Join the Deployments of one predictor: its readiness is that of the least ready one."""
    replicas = sum(part.replicas for part in parts)
    return Readiness(replicas, replicas - max(part.replicas - part.available for part in parts))


def deployment_problems(deployment: Mapping[str, Any]) -> list[str]:
    """Return the problems in a Deployment's conditions, such as an exceeded quota."""
    bad = {"ReplicaFailure": "True", "Progressing": "False"}
    conditions = (deployment.get("status") or {}).get("conditions") or []
    return [
        f"{one.get('reason', one['type'])}: {one.get('message', '')}"
        for one in conditions
        if bad.get(one["type"]) == one.get("status")
    ]


def pod_problems(pod: Mapping[str, Any]) -> list[str]:
    """Return why a pod is not ready: it cannot be scheduled, its image cannot be pulled, its container exits."""
    status = pod.get("status") or {}
    problems = [
        f"{one.get('reason', 'Unschedulable')}: {one.get('message', '')}"
        for one in status.get("conditions") or []
        if one["type"] == "PodScheduled" and one.get("status") == "False"
    ]
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        ended = (container.get("lastState") or {}).get("terminated") or {}
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            problems.append(f"container {container['name']}: {waiting.get('reason')}: {waiting.get('message', '')}")
        if ended:
            problems.append(
                f"container {container['name']} ended: {ended.get('reason')}, exit code {ended.get('exitCode')}, "
                f"{container.get('restartCount', 0)} restarts"
            )
    return problems


def _pod(pod: Any) -> Pod:
    statuses = (pod.status and pod.status.container_statuses) or []
    conditions = {one.type: one.status for one in (pod.status and pod.status.conditions) or []}
    labels, created = pod.metadata.labels or {}, pod.metadata.creation_timestamp
    return Pod(
        predictor=labels.get("version", ""),
        name=pod.metadata.name,
        image=pod.spec.containers[0].image or "",
        ready=conditions.get("Ready") == "True",
        restarts=sum(one.restart_count for one in statuses),
        created_at_s=created.timestamp() if created else None,
    )


def weights(virtual_service: Mapping[str, Any], services: Mapping[str, str]) -> dict[str, int]:
    """Return percent per predictor; services: predictor by the name of its Service.

    A destination that is not one of these counts under its host, so such requests are visible. If routes have
    different weights (REST and gRPC), the result is empty.
    """
    seen = []
    for route in virtual_service["spec"].get("http", []):
        destinations = route.get("route") or []
        lone = len(destinations) == 1  # Istio sends everything to a single destination, whatever its weight
        seen.append(
            {
                _predictor(destination, services): 100 if lone else destination.get("weight", 0)
                for destination in destinations
            }
        )
    return seen[0] if seen and all(one == seen[0] for one in seen) else {}


def mirrors(virtual_service: Mapping[str, Any], services: Mapping[str, str]) -> dict[str, int]:
    """Return percent of the requests by the predictor that they are copied to; the lowest where routes differ."""
    found: dict[str, int] = {}
    for route in virtual_service["spec"].get("http", []):
        if mirror := route.get("mirror"):
            percent = round((route.get("mirrorPercentage") or {}).get("value", 100))
            name = services.get(_service(str(mirror["host"])), str(mirror["host"]))
            found[name] = min(percent, found.get(name, percent))
    return found


def reweighted(
    virtual_service: Mapping[str, Any], services: Mapping[str, str], wanted: Mapping[str, int]
) -> list[Operation]:
    """Return the JSON Patch that sets every destination's weight; a destination without a weight gets 0."""
    http = virtual_service["spec"].get("http", [])
    operations: list[Operation] = [{"op": "test", "path": "/spec/http", "value": http}]
    for i, route in enumerate(http):
        for j, destination in enumerate(route.get("route") or []):
            percent = wanted.get(_predictor(destination, services), 0)
            operations.append({"op": "add", "path": f"/spec/http/{i}/route/{j}/weight", "value": percent})
    return operations


def _predictor(destination: Mapping[str, Any], services: Mapping[str, str]) -> str:
    host = str(destination["destination"]["host"])
    return services.get(_service(host), host)


def _service(host: str) -> str:
    return host.partition(".")[0]
