"""One predictor of a SeldonDeployment as typed values, from its graph to the probes of its containers.

Fields that are not modelled are kept: what was read is written again.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt
from pydantic.alias_generators import to_camel

from rollout.errors import ManifestError

DEPLOYMENT_LABEL = "seldon-deployment-id"  # of every pod, by the operator


class Part(BaseModel):
    """A frozen object of the API with camelCase aliases; unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel, protected_namespaces=())

    def but(self, **changes: Any) -> Self:
        """Return a copy with these fields replaced, given by their Python names."""
        return self.model_copy(update=changes)


class EnvVar(Part):
    """One environment variable; `valueFrom` is not interpreted."""

    name: str
    value: str | None = None


def ready_path(model: str) -> str:
    """Return the path by which MLServer says whether a model takes requests."""
    return f"/v2/models/{model}/ready"


class Port(Part):
    """One declared port. The operator recognises the names http, grpc and metrics."""

    name: str = ""
    container_port: StrictInt


class HttpGet(Part):
    """The HTTP request of a probe; the port is a number or the name of a port."""

    path: str = "/"
    port: StrictInt | str


class Probe(Part):
    """One probe; only its HTTP form is checked."""

    http_get: HttpGet | None = None

    def for_model(self, old: str, new: str) -> Probe:
        """Return the probe; one of the readiness of model `old` asks for `new`."""
        if self.http_get is None or self.http_get.path != ready_path(old):
            return self
        return self.but(http_get=self.http_get.but(path=ready_path(new)))


class Container(Part):
    """One container of a pod."""

    name: str
    image: str = ""
    env: tuple[EnvVar, ...] = ()
    ports: tuple[Port, ...] = ()
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None

    def for_model(self, name: str) -> Container:
        """Return the container under another name, which the operator makes the model's, with its probes."""
        probes = {
            field: probe.for_model(self.name, name)
            for field in ("readiness_probe", "liveness_probe", "startup_probe")
            if (probe := getattr(self, field)) is not None
        }
        return self.but(name=name, **probes)


class PodSpec(Part):
    """The part of a pod that the operator copies into its Deployment."""

    containers: tuple[Container, ...]
    termination_grace_period_seconds: StrictInt | None = None
    topology_spread_constraints: tuple[dict[str, Any], ...] = ()


class HpaSpec(Part):
    """The autoscaler. `metrics` (autoscaling/v2beta1) takes precedence over `metricsv2` when both are given."""

    min_replicas: StrictInt | None = None
    max_replicas: StrictInt
    metrics: tuple[dict[str, Any], ...] = ()
    metricsv2: tuple[dict[str, Any], ...] = ()

    @property
    def target_utilisation_percent(self) -> int | None:
        """The share of the requested CPU that the autoscaler keeps in use; None where it follows something else."""
        for metric in self.metrics or self.metricsv2:
            resource = metric.get("resource") or {}
            target = resource.get("target") or {}
            percent = resource.get("targetAverageUtilization", target.get("averageUtilization"))
            if resource.get("name") == "cpu" and isinstance(percent, int) and percent > 0:
                return percent
        return None


class Metadata(Part):
    """Name, namespace, labels and annotations of an object."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    resource_version: str = ""


class ComponentSpec(Part):
    """One Deployment of a predictor: its pod and its scaling."""

    metadata: Metadata = Metadata()
    spec: PodSpec
    hpa_spec: HpaSpec | None = None
    pdb_spec: dict[str, Any] | None = None
    replicas: StrictInt | None = None


class Unit(Part):
    """A node of the inference graph. Without an implementation, its name must be the name of a container."""

    name: str
    type: str | None = None
    implementation: str | None = None
    methods: tuple[str, ...] = ()
    model_uri: str = ""
    env_secret_ref_name: str = ""
    children: tuple[Unit, ...] = ()
    logger: dict[str, Any] | None = None

    def nodes(self) -> tuple[Unit, ...]:
        """Return this node and all nodes below it, depth first."""
        return (self, *(node for child in self.children for node in child.nodes()))


class Predictor(Part):
    """One version of the model, with the version's name (`v7`). Its traffic determines its role."""

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
        """The container that runs the root of the graph. Raises ManifestError when there is none."""
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
        """Return this predictor under another name, with a new image or model URI (empty: unchanged) and traffic.

        Spread constraints that select the pods of the old predictor (`version: v7`) select those of the new one.
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

    def for_model(self, model: str) -> Predictor:
        """Return this predictor for another model: container, graph node and probes have the model's name."""
        old = self.model_container
        components = tuple(
            component.but(
                spec=component.spec.but(
                    containers=tuple(
                        container.for_model(model) if container is old else container
                        for container in component.spec.containers
                    )
                )
            )
            for component in self.component_specs
        )
        return self.but(graph=self.graph.but(name=model), component_specs=components)

    def for_deployment(self, old: str, new: str) -> Predictor:
        """Return this predictor in a deployment of another name, which spread constraints select by."""
        components = tuple(
            component.but(
                spec=component.spec.but(
                    topology_spread_constraints=tuple(
                        _reselect(one, old, new, label=DEPLOYMENT_LABEL)
                        for one in component.spec.topology_spread_constraints
                    )
                )
            )
            if component.spec.topology_spread_constraints
            else component
            for component in self.component_specs
        )
        return self.but(component_specs=components)


def _reselect(constraint: dict[str, Any], old: str, new: str, *, label: str = "version") -> dict[str, Any]:
    selector = constraint.get("labelSelector") or {}
    labels = selector.get("matchLabels") or {}
    if labels.get(label) != old:
        return constraint
    return constraint | {"labelSelector": selector | {"matchLabels": labels | {label: new}}}
