"""The ports to a SeldonDeployment: Target (the deployment and its mesh) and LeaseStore (the lock).

Adapters: kubernetes.py (an API server), local.py (this machine), memory.py (a dictionary, for tests and simulation).
All three pass one contract suite, tests/rollout/targets/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from rollout.manifest.parsing import parse
from rollout.manifest.seldon import SeldonDeployment

Operation = Mapping[str, Any]
"""One JSON Patch operation (RFC 6902): {"op": "test" | "add" | "replace" | "remove", "path": ..., "value": ...}."""


class EventType(StrEnum):
    """The two event types of Kubernetes."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of the audit trail; `reason` is CamelCase and stable, `message` is for people."""

    type: EventType
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """The replicas of one predictor: how many exist and how many are available."""

    replicas: int
    available: int

    @property
    def ready(self) -> bool:
        """Whether there are replicas and all are available, as the operator requires before it writes weights."""
        return 0 < self.replicas <= self.available


@dataclass(frozen=True, slots=True)
class Address:
    """How one predictor is reached past the weights: a base URL, and the headers that select it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """The deployment at one moment.

    manifest: the SeldonDeployment as stored (metadata, spec, status), plain JSON. readiness: per predictor, if it has
    pods. mesh_weights: percent per predictor as the mesh routes now, read from the mesh, never from the
    spec; a predictor without a route is absent. problems: per predictor, why its pods are not ready, as text; empty if
    nothing is known. mesh_mirrors: percent of the requests that the mesh copies to a predictor. addresses: per
    predictor, as far as known.
    """

    manifest: Mapping[str, Any]
    readiness: Mapping[str, Readiness]
    mesh_weights: Mapping[str, int]
    problems: Mapping[str, str] = field(default_factory=dict)
    mesh_mirrors: Mapping[str, int] = field(default_factory=dict)
    addresses: Mapping[str, Address] = field(default_factory=dict)

    @cached_property
    def deployment(self) -> SeldonDeployment:
        """The typed manifest. Raises ManifestError when it is not a SeldonDeployment."""
        return parse(self.manifest)

    @property
    def available(self) -> bool:
        """Whether the operator's status is Available; not enough alone, since it can be out of date."""
        status = self.deployment.status
        return status is not None and status.state == "Available"


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The holder of the rollout's lock.

    holder: empty when free. duration_s: how long it is held after a renewal. acquired_at_s, renewed_at_s: Unix time by
    the holder's clock; 0 when it is not known. transitions: the fencing token, which grows by one with each new holder.
    version: of the stored record, empty when there is none; a write names the version that it replaces.
    """

    holder: str = ""
    duration_s: int = 15
    renewed_at_s: float = 0.0
    transitions: int = 0
    version: str = ""
    acquired_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod, or one process on this machine; created_at_s is Unix time, None when unknown."""

    predictor: str
    name: str
    image: str
    ready: bool
    restarts: int = 0
    created_at_s: float | None = None


@runtime_checkable
class PodLister(Protocol):
    """A target that can list pods. Only the status display needs it, so the promoter's account may lack the right."""

    def pods(self) -> Sequence[Pod]:
        """Return all pods of the deployment. Raises TargetError."""


class Target(Protocol):
    """One SeldonDeployment and the mesh in front of it.

    Every method may raise NotFound, Denied (401, 403) or Unavailable (timeout, 429, 5xx): see errors.py.
    """

    def read(self) -> Snapshot:
        """Return the deployment, its readiness and the mesh's weights."""

    def patch(self, operations: Sequence[Operation], *, dry_run: bool = False) -> Snapshot:
        """Apply a JSON Patch to the manifest, all of it or nothing, and return what is stored afterwards.

        Raises Conflict when a `test` fails (a concurrent write), Rejected when the result is no valid SeldonDeployment.
        dry_run: everything is checked and nothing is stored.
        """

    def route(self, weights: Mapping[str, int]) -> None:
        """Write percent per predictor directly into the mesh, without the operator: the last stage of a rollback.

        A predictor that is not named gets no traffic. Raises Denied without the right to do this.
        """

    def forget(self, predictor: str) -> None:
        """Delete what the operator leaves of a removed predictor; does nothing while the mesh still routes to it."""

    def publish(self, event: Event) -> None:
        """Add an event to the deployment's audit trail."""


class LeaseStore(Protocol):
    """The store of the lock, with compare-and-swap; lease.py decides who may write and when."""

    def read_lease(self) -> LeaseRecord:
        """Return the record; LeaseRecord() when there is none."""

    def write_lease(self, record: LeaseRecord) -> LeaseRecord:
        """Store the record if the stored version is still record.version, and return it with its new version.

        Raises Conflict otherwise.
        """
