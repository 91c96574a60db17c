"""A lease in a cluster: coordination.k8s.io, with the version of the record as compare-and-swap."""

from __future__ import annotations

from datetime import UTC, datetime

from kubernetes import client

from rollout.errors import NotFound
from rollout.targets.kubernetes_connection import Connection
from rollout.targets.target import LeaseRecord

CONTROLLER = "rollout-controller"
"""The lease by which a controller says, in each namespace that it watches, that it is alive."""


class KubernetesLease:
    """LeaseStore for the lease of a name in the connection's namespace."""

    def __init__(self, name: str, connection: Connection) -> None:
        self._name = name
        self._connection = connection

    def read_lease(self) -> LeaseRecord:
        """Return the lease; LeaseRecord() when it does not exist yet."""
        try:
            lease = self._connection.call(
                f"get lease {self._name}",
                client.CoordinationV1Api.read_namespaced_lease,
                name=self._name,
                namespace=self._connection.namespace,
            )
        except NotFound:
            return LeaseRecord()
        return _record(lease)

    def write_lease(self, record: LeaseRecord) -> LeaseRecord:
        """Create or replace the lease at the version in the record. Raises Conflict."""
        namespace = self._connection.namespace
        body = client.V1Lease(
            metadata=client.V1ObjectMeta(name=self._name, namespace=namespace, resource_version=record.version or None),
            spec=client.V1LeaseSpec(
                holder_identity=record.holder or None,
                lease_duration_seconds=record.duration_s,
                lease_transitions=record.transitions,
                acquire_time=micro_time(record.acquired_at_s) if record.acquired_at_s else None,
                renew_time=micro_time(record.renewed_at_s),
            ),
        )
        doing = f"write lease {self._name}"
        if not record.version:
            create = client.CoordinationV1Api.create_namespaced_lease
            return _record(self._connection.call(doing, create, namespace=namespace, body=body))
        replace = client.CoordinationV1Api.replace_namespaced_lease
        return _record(self._connection.call(doing, replace, name=self._name, namespace=namespace, body=body))


def micro_time(at_s: float) -> datetime:
    """Return a time as the API server's MicroTime, which needs six digits: isoformat omits them when all are zero."""
    at = datetime.fromtimestamp(at_s, UTC)
    return at.replace(microsecond=max(at.microsecond, 1))


def _record(lease: client.V1Lease) -> LeaseRecord:
    spec = lease.spec or client.V1LeaseSpec()
    return LeaseRecord(
        holder=spec.holder_identity or "",
        duration_s=spec.lease_duration_seconds or LeaseRecord().duration_s,
        acquired_at_s=spec.acquire_time.timestamp() if spec.acquire_time else 0.0,
        renewed_at_s=spec.renew_time.timestamp() if spec.renew_time else 0.0,
        transitions=spec.lease_transitions or 0,
        version=(lease.metadata and lease.metadata.resource_version) or "",
    )
