"""A SeldonDeployment on this machine (scripts/seldon_local.py): its files, and Caddy's admin API for the mesh."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx

from rollout.errors import Conflict, NotFound, Rejected, Unavailable
from rollout.manifest.parsing import parse
from rollout.targets.caddy import read_weights, with_weights
from rollout.targets.local_store import LocalStore
from rollout.targets.target import Event, LeaseRecord, Operation, Readiness, Snapshot

ADMIN_TIMEOUT_S = 5.0
ADMIN_TRIES = 5
ADMIN_PAUSE_S = 0.05


class LocalTarget:
    """Target and LeaseStore over one deployment's files. The controller (`up`) does what they say."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def read(self) -> Snapshot:
        """Return the deployment, its readiness and Caddy's weights."""
        return self._snapshot(self._store.read())

    def patch(self, operations: Sequence[Operation], *, dry_run: bool = False) -> Snapshot:
        """Apply a JSON Patch to the live object; the controller follows within a fraction of a second."""
        return self._snapshot(self._store.patch(operations, dry_run=dry_run))

    def route(self, weights: Mapping[str, int]) -> None:
        """Write percent per predictor into Caddy, past the controller.

        The controller writes the spec's weights again as soon as all predictors are ready, as the operator does.
        """
        answer = self._admin("GET", "/config/")
        try:
            config = with_weights(answer.json(), weights)
        except ValueError as error:
            raise Rejected(f"the mesh cannot route {dict(weights)}: {error}") from error
        self._admin("POST", "/config/", json=config, headers={"If-Match": answer.headers["Etag"]})

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
        """Replace the lock's record, if nobody else has."""
        return self._store.write_lease(record)

    def metrics_urls(self) -> dict[str, list[str]]:
        """Return each predictor's metrics endpoints, one per replica: what evidence is scraped from."""
        return {
            name: [f"http://127.0.0.1:{replica['metrics']}/prometheus" for replica in replicas]
            for name, replicas in self._store.runtime().get("predictors", {}).items()
        }

    def _snapshot(self, manifest: Mapping[str, Any]) -> Snapshot:
        deployment = parse(manifest)
        found = deployment.status.deployment_status if deployment.status else {}
        readiness = {}
        for name in (predictor.name for predictor in deployment.predictors):
            of_name = [found[one] for one in deployment.deployment_names(name) if one in found]
            if of_name:
                readiness[name] = Readiness(
                    sum(one.replicas for one in of_name), sum(one.available_replicas for one in of_name)
                )
        try:
            weights = read_weights(self._admin("GET", "/config/").json() or {})
        except ValueError as error:
            raise Unavailable(f"the mesh's weights cannot be read: {error}") from error
        return Snapshot(manifest=manifest, readiness=readiness, mesh_weights=weights)

    def _admin(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        socket = self._store.runtime().get("admin_socket")
        if socket is None:
            if not self._store.object_file.exists():
                raise NotFound(f"no SeldonDeployment in {self._store.directory}; run: scripts/seldon_local.py up FILE")
            raise Unavailable(f"nothing runs of {self._store.directory}; run: scripts/seldon_local.py up FILE")
        answer = self._ask(socket, method, path, **arguments)
        if answer.status_code == httpx.codes.PRECONDITION_FAILED:
            raise Conflict("Caddy's configuration was changed in between; read again")
        if answer.is_error:
            raise Unavailable(f"Caddy answered {method} {path} with {answer.status_code}: {answer.text.strip()}")
        return answer

    def _ask(self, socket: str, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Ask Caddy, again where the connection broke: its admin API restarts with each change of the configuration."""
        error: httpx.HTTPError | None = None
        transport = httpx.HTTPTransport(uds=socket)
        with httpx.Client(transport=transport, base_url="http://caddy", timeout=ADMIN_TIMEOUT_S) as client:
            for _ in range(ADMIN_TRIES):
                try:
                    return client.request(method, path, **arguments)
                except httpx.HTTPError as broken:
                    error = broken
                    time.sleep(ADMIN_PAUSE_S)
        raise Unavailable(f"Caddy's admin API at {socket} did not answer: {error!r}") from error
