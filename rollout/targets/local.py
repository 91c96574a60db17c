"""A SeldonDeployment on this machine (churn-serving local): its files, with Envoy as the mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rollout.errors import NotFound, Unavailable
from rollout.manifest.parsing import parse
from rollout.targets import envoy
from rollout.targets.local_store import LocalStore
from rollout.targets.place import Place
from rollout.targets.target import Address, Event, LeaseRecord, Operation, Pod, Readiness, Snapshot


class LocalTarget:
    """Target and LeaseStore over one deployment's files. The controller (`up`) applies their content.

    Readiness comes from the Deployments (runtime.json), because the operator's status is out of date when it is dead.
    """

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    @property
    def place(self) -> Place:
        """The options that name this deployment, and its audit trail."""
        return Place.on_this_machine(self._store.directory)

    def read(self) -> Snapshot:
        """Return the deployment, its pods' readiness and Envoy's current weights."""
        return self._snapshot(self._store.read())

    def patch(self, operations: Sequence[Operation], *, dry_run: bool = False) -> Snapshot:
        """Apply a JSON Patch to the live object; the controller applies it within a fraction of a second."""
        return self._snapshot(self._store.patch(operations, dry_run=dry_run))

    def route(self, weights: Mapping[str, int]) -> None:
        """Write percent per predictor into Envoy's routes, without the operator; returns when Envoy applied them.

        The operator writes the spec's weights again as soon as all predictors are ready, as Seldon's operator does.
        """
        envoy.route(self._store.directory, self._admin(), weights)

    def pods(self) -> list[Pod]:
        """Return one entry for each process of a predictor."""
        deployment = parse(self._store.read())
        images = {one.name: one.model_container.image or "" for one in deployment.predictors}
        return [
            Pod(
                predictor=name,
                name=f"{name}-{replica['pid']}",
                image=images.get(name, ""),
                ready=bool(replica.get("ready")),
                restarts=int(replica.get("restarts", 0)),
            )
            for name, replicas in self._store.runtime().get("predictors", {}).items()
            for replica in replicas
        ]

    def forget(self, predictor: str) -> None:
        """Do nothing: the local operator leaves nothing behind."""

    def publish(self, event: Event) -> None:
        """Append one line to events.jsonl."""
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._store.append_event(
            {"time": stamp, "type": event.type.value, "reason": event.reason, "message": event.message}
        )

    def read_lease(self) -> LeaseRecord:
        """Return the lock's record."""
        return self._store.read_lease()

    def write_lease(self, record: LeaseRecord) -> LeaseRecord:
        """Replace the lock's record. Raises Conflict after a concurrent write."""
        return self._store.write_lease(record)

    def metrics_urls(self) -> dict[str, list[str]]:
        """Return each predictor's metrics endpoints, one per replica; the evidence is scraped from them."""
        return {
            name: [f"http://127.0.0.1:{replica['metrics']}/prometheus" for replica in replicas]
            for name, replicas in self._store.runtime().get("predictors", {}).items()
        }

    def mesh_statistics(self) -> bytes:
        """Return the gateway's statistics of the predictors, for evidence/envoy_stats.py."""
        return self._admin().statistics()

    def _snapshot(self, manifest: Mapping[str, Any]) -> Snapshot:
        names = [predictor.name for predictor in parse(manifest).predictors]
        deployments = self._store.runtime().get("deployments", {})
        readiness = {
            name: Readiness(found["replicas"], found["available"])
            for name, found in deployments.items()
            if name in names
        }
        try:
            routes = self._admin().routes()
            weights, mirrors = envoy.read_weights(routes), envoy.read_mirrors(routes)
        except ValueError as error:
            raise Unavailable(f"the mesh's weights cannot be read: {error}") from error
        return Snapshot(
            manifest=manifest,
            readiness=readiness,
            mesh_weights=weights,
            mesh_mirrors=mirrors,
            addresses=self._addresses(manifest, names),
        )

    def _addresses(self, manifest: Mapping[str, Any], names: Sequence[str]) -> dict[str, Address]:
        """Return each predictor's address: the gateway, with the header that selects the predictor."""
        deployment = parse(manifest)
        url = f"{self._store.runtime().get('url', '')}/seldon/{deployment.namespace}/{deployment.name}"
        return {name: Address(url, {envoy.PREDICTOR_HEADER: name}) for name in names}

    def _admin(self) -> envoy.EnvoyAdmin:
        socket = self._store.runtime().get("admin_socket")
        if socket is None:
            if not self._store.object_file.exists():
                raise NotFound(f"no SeldonDeployment in {self._store.directory}; run: churn-serving local up FILE")
            raise Unavailable(f"nothing runs in {self._store.directory}; run: churn-serving local up FILE")
        return envoy.EnvoyAdmin(socket)
