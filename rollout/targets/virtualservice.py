"""The weights in an Istio VirtualService, as Seldon's operator writes it: one HTTP route for REST, one for gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.targets.target import Operation


def weights(virtual_service: Mapping[str, Any], services: Mapping[str, str]) -> dict[str, int]:
    """Return percent per predictor; services: predictor by the name of its Service.

    A destination that is none of these counts under its host, so that requests which go elsewhere are seen. Routes
    that disagree (REST and gRPC) have no weights in common: the result is empty.
    """
    seen = []
    for route in virtual_service["spec"].get("http", []):
        destinations = route.get("route") or []
        lone = len(destinations) == 1  # Istio sends everything to a lone destination, whatever its weight
        seen.append(
            {
                _predictor(destination, services): 100 if lone else destination.get("weight", 0)
                for destination in destinations
            }
        )
    return seen[0] if seen and all(one == seen[0] for one in seen) else {}


def reweighted(
    virtual_service: Mapping[str, Any], services: Mapping[str, str], wanted: Mapping[str, int]
) -> list[Operation]:
    """Return the JSON Patch that gives every destination its percent, 0 where none is wanted."""
    http = virtual_service["spec"].get("http", [])
    operations: list[Operation] = [{"op": "test", "path": "/spec/http", "value": http}]
    for i, route in enumerate(http):
        for j, destination in enumerate(route.get("route") or []):
            percent = wanted.get(_predictor(destination, services), 0)
            operations.append({"op": "add", "path": f"/spec/http/{i}/route/{j}/weight", "value": percent})
    return operations


def _predictor(destination: Mapping[str, Any], services: Mapping[str, str]) -> str:
    host = str(destination["destination"]["host"])
    return services.get(host.partition(".")[0], host)
