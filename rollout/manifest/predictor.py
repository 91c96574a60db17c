"""One predictor of a SeldonDeployment, from its graph down to its containers' probes, as typed values.

What is not modelled here is kept: a field that was read is written again.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt
from pydantic.alias_generators import to_camel

from rollout.errors import ManifestError


class Part(BaseModel):
    """A frozen object of the API: camelCase outside, unknown fields kept."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel, protected_namespaces=())

    def but(self, **changes: Any) -> Self:
        """Return a copy with these fields (by Python name) replaced."""
        return self.model_copy(update=changes)


class EnvVar(Part):
    """One environment variable; `valueFrom` is kept as it is."""

    name: str
    value: str | None = None


class Port(Part):
    """One declared port; the operator recognises the names http, grpc and metrics."""

    name: str = ""
    container_port: StrictInt


class HttpGet(Part):
    """What a probe asks for; the port is a number or a port's name."""

    path: str = "/"
    port: StrictInt | str


class Probe(Part):
    """One probe; only its HTTP form is looked into."""

    http_get: HttpGet | None = None


class Container(Part):
    """One container of a pod."""

    name: str
    image: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[Port, ...] = ()
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None


class PodSpec(Part):
    """The part of a pod that the operator copies into its Deployment."""

    containers: tuple[Container, ...]
    termination_grace_period_seconds: StrictInt | None = None
    topology_spread_constraints: tuple[dict[str, Any], ...] = ()


class HpaSpec(Part):
    """The autoscaler; `metrics` (autoscaling/v2beta1) wins over `metricsv2` when both are given."""

    min_replicas: StrictInt | None = None
    max_replicas: StrictInt
    metrics: tuple[dict[str, Any], ...] = ()
    metricsv2: tuple[dict[str, Any], ...] = ()


class Metadata(Part):
    """Name, namespace, labels and annotations of an object."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    resource_version: str = ""


class ComponentSpec(Part):
    """One Deployment of a predictor: its pod, and how it scales."""

    metadata: Metadata = Metadata()
    spec: PodSpec
    hpa_spec: HpaSpec | None = None
    pdb_spec: dict[str, Any] | None = None
    replicas: StrictInt | None = None


class Unit(Part):
    """A node of the inference graph; without an implementation its name must be a container's."""

    name: str
    type: str | None = None
    implementation: str | None = None
    methods: tuple[str, ...] = ()
    model_uri: str = ""
    env_secret_ref_name: str = ""
    children: tuple[Unit, ...] = ()
    logger: dict[str, Any] | None = None

    def nodes(self) -> tuple[Unit, ...]:
        """Return this node and everything below it, depth first."""
        return (self, *(node for child in self.children for node in child.nodes()))


class Predictor(Part):
    """One version of the model, named after it (`v7`); its role follows from its traffic."""

    name: str
    graph: Unit
    component_specs: tuple[ComponentSpec, ...] = ()
    traffic: StrictInt = 0
    replicas: StrictInt | None = None
    shadow: StrictBool = False
    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}
    svc_orch_spec: dict[str, Any] = {}

    def containers(self) -> tuple[Container, ...]:
        """Return the containers of all component specs, in order."""
        return tuple(container for component in self.component_specs for container in component.spec.containers)

    @property
    def model_container(self) -> Container:
        """The container that the graph's root runs in. Raises ManifestError when there is none."""
        for container in self.containers():
            if container.name == self.graph.name:
                return container
        named = ", ".join(container.name for container in self.containers()) or "none"
        raise ManifestError(f"predictor {self.name}: no container named {self.graph.name!r}; its containers: {named}")

    @property
    def image(self) -> str:
        """The image of the model container."""
        return self.model_container.image

    def for_version(self, name: str, *, image: str = "", model_uri: str = "", traffic: int = 0) -> Predictor:
        """Return this predictor under another name: a new image or model URI (empty: unchanged), and its traffic.

        Spread constraints that select the old predictor's pods (`version: v7`) select the new one's instead.
        """
        old = self.model_container
        components = []
        for component in self.component_specs:
            containers = tuple(
                container.but(image=image) if image and container is old else container
                for container in component.spec.containers
            )
            pod = component.spec.but(containers=containers)
            if spread := component.spec.topology_spread_constraints:
                pod = pod.but(topology_spread_constraints=tuple(_reselect(one, self.name, name) for one in spread))
            components.append(component.but(spec=pod))
        graph = self.graph.but(model_uri=model_uri) if model_uri else self.graph
        return self.but(name=name, graph=graph, component_specs=tuple(components), traffic=traffic)


def _reselect(constraint: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    selector = constraint.get("labelSelector") or {}
    labels = selector.get("matchLabels") or {}
    if labels.get("version") != old:
        return constraint
    return constraint | {"labelSelector": selector | {"matchLabels": labels | {"version": new}}}
