"""What the mesh is to do, in the terms of a deployment: who answers, and with which share of the traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local_seldon.ports import Ports


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica that requests can be sent to."""

    predictor: str
    replica: int
    ports: Ports


@dataclass(frozen=True, slots=True)
class Routes:
    """What the mesh does: the deployment's address, percent per predictor, and who answers for each predictor.

    `endpoints` are those that share a predictor's traffic; `replicas` are all, for their metrics. Empty weights: 503.
    """

    namespace: str
    name: str
    weights: Mapping[str, int]
    endpoints: Sequence[Endpoint]
    replicas: Sequence[Endpoint]

    @property
    def prefix(self) -> str:
        """The operator's path below the gateway."""
        return f"/seldon/{self.namespace}/{self.name}"
