"""Computes how many pods a load needs: the minimum and maximum of the autoscaler.

A pod is one event loop on one core. The capacity of one core within the latency objective is measured. `deratings`
adjust that figure to the cores and the feature store of the cluster. The target utilisation is the share of it that is
used:

    usable = slo_capacity * product(deratings) * target_utilisation         requests/s per pod
    lost   = nodes_lost * floor(P / nodes) + min(nodes_lost, P mod nodes)   the fullest nodes fail; maxSkew is 1
    P      = the smallest with  P - lost >= load / usable

The minimum is P for the required load, the maximum is P for the peak load.
"""

from __future__ import annotations

import math
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rollout.errors import ManifestError
from rollout.manifest.problems import field_errors


class Capacity(BaseModel):
    """The input of the capacity calculation, as in seldon/capacity.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slo_capacity_rps: float = Field(gt=0, description="Requests/s of one core with P99 <= 50 ms.")
    measured: str = Field(description="Where that figure comes from.")
    deratings: dict[str, float] = Field(description="Factors of that figure, each with its reason as the key.")
    target_utilisation_percent: int = Field(gt=0, le=100, description="The HPA's target, of the requested CPU.")
    required_rps: float = Field(gt=0, description="The load to hold with nodes lost.")
    peak_factor: float = Field(ge=1, description="The highest load, as a multiple of the required one.")
    nodes: int = Field(gt=1, description="Nodes that the pods are spread over.")
    nodes_lost: int = Field(ge=0, description="Nodes that may be gone at the same time.")

    @property
    def pod_rps(self) -> float:
        """Requests/s of one pod in the cluster within the latency objective: `capacity.pod_rps` of rollout.yaml."""
        return self.slo_capacity_rps * math.prod(self.deratings.values())

    @property
    def usable_rps(self) -> float:
        """Requests/s that one pod takes at the target utilisation."""
        return self.pod_rps * self.target_utilisation_percent / 100

    def pods(self, load_rps: float) -> int:
        """Return the smallest number of pods that serve a load while `nodes_lost` nodes are unavailable."""
        pods = math.ceil(load_rps / self.usable_rps)
        while (pods - self._lost(pods)) * self.usable_rps < load_rps:
            pods += 1
        return pods

    def _lost(self, pods: int) -> int:
        on_each, fuller_nodes = divmod(pods, self.nodes)
        return self.nodes_lost * on_each + min(self.nodes_lost, fuller_nodes)

    @property
    def min_replicas(self) -> int:
        """The minimum of each predictor's autoscaler: stable and a canary at 100 % must each serve the load alone."""
        return self.pods(self.required_rps)

    @property
    def max_replicas(self) -> int:
        """The maximum of each predictor's autoscaler."""
        return self.pods(self.required_rps * self.peak_factor)


def read_capacity(path: Path) -> Capacity:
    """Read seldon/capacity.yaml. Raises ManifestError, which names the invalid fields."""
    try:
        capacity = Capacity.model_validate(yaml.safe_load(path.read_bytes()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        if isinstance(error, OSError):
            reason = str(error.strerror)
        elif isinstance(error, ValidationError):
            reason = "; ".join(f"{place or 'the file'}: {message}" for place, message in field_errors(error))
        else:
            reason = " ".join(str(error).split())
        raise ManifestError(f"{path} cannot be used: {reason}; seldon/capacity.yaml is an example") from error
    if capacity.nodes_lost >= capacity.nodes:
        raise ManifestError(f"{path}: nodes_lost is {capacity.nodes_lost}; allowed: less than nodes ({capacity.nodes})")
    return capacity
