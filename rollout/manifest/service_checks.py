"""Checks a manifest: its shape, the webhook's rules, and what the webhook accepts although it breaks the service.

`find_problems` runs all checks. The rules here cover names, traffic, ports, probes, environment and disruption. Each
rule names the behaviour of the operator that it guards against. Protocol-specific rules apply to v2 (old name:
`kfserving`), where MLServer runs in our own container.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from rollout.manifest.predictor import Container, Predictor, Probe, ready_path
from rollout.manifest.problems import Problem, error, field_errors, warning
from rollout.manifest.seldon import API_VERSION, KIND, NAME_MAX_CHARS, NO_ENGINE, SERVICE_NAME, SeldonDeployment
from rollout.manifest.webhook_rules import runs_in_own_container, webhook

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # DNS-1123
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035: the name of a Service starts with a letter
PORTS = ("http", "grpc", "metrics")
OPERATORS_ENV = (
    "MLSERVER_HTTP_PORT",
    "MLSERVER_GRPC_PORT",
    "MLSERVER_MODEL_URI",
    "PREDICTIVE_UNIT_HTTP_SERVICE_PORT",
    "PREDICTIVE_UNIT_GRPC_SERVICE_PORT",
    "PREDICTIVE_UNIT_PARAMETERS",
)
"""Constraints that the operator searches for before it adds its own. If it finds one, it replaces the whole list."""
REGISTRY_SCHEMES = ("models:", "mlflow:", "runs:")
READY = re.compile(r"/v2/models/([^/]+)/ready")
LIVE_PATH = "/v2/health/live"
V2_PROTOCOLS = ("v2", "kfserving")


def gaps(deployment: SeldonDeployment) -> Iterator[Problem]:
    """Yield every problem that the API accepts and that causes a failure or an unexpected result later."""
    yield from _name("/metadata/name", deployment.name, SERVICE, "it starts the name of a Service, so with a letter")
    if deployment.namespace:
        yield from _name("/metadata/namespace", deployment.namespace, LABEL, "it is a namespace")
    yield from _misplaced_no_engine(deployment)
    yield from _disruption_budgets(deployment)
    v2 = deployment.spec.protocol in V2_PROTOCOLS
    for index, predictor in enumerate(deployment.predictors):
        path = f"/spec/predictors/{index}"
        yield from _name(f"{path}/name", predictor.name, LABEL, "it becomes a label and a part of names")
        if service := predictor.annotations.get(SERVICE_NAME):
            yield from _name(f"{path}/annotations/seldon.io~1svc-name", service, SERVICE, "it is a Service's name")
        if not predictor.shadow and not 0 <= predictor.traffic <= 100:
            yield error(f"{path}/traffic", f"traffic is {predictor.traffic}; allowed: 0..100")
        yield from _hashed_names(deployment, predictor, path)
        yield from _no_engine(predictor, path, needed=v2)
        yield from _model_uri(predictor, path)
        yield from _components(predictor, path, v2=v2)


def _name(path: str, name: str, pattern: re.Pattern[str], why: str) -> Iterator[Problem]:
    if len(name) > NAME_MAX_CHARS:
        yield error(path, f"{name!r} has {len(name)} characters; allowed: at most {NAME_MAX_CHARS}")
    if not pattern.fullmatch(name):
        first = "a-z" if pattern is SERVICE else "a-z, 0-9"
        yield error(path, f"{name!r} is not a DNS label ({why}); allowed: first {first}, then a-z, 0-9, -, last not -")


def _hashed_names(deployment: SeldonDeployment, predictor: Predictor, path: str) -> Iterator[Problem]:
    service = f"{deployment.name}-{predictor.name}"
    if SERVICE_NAME not in predictor.annotations and len(service) > NAME_MAX_CHARS:
        yield warning(
            f"{path}/name",
            f"the Service would be called seldon-<md5>, since {service!r} has {len(service)} characters; "
            f"shorten the names to {NAME_MAX_CHARS} together",
        )


def _misplaced_no_engine(deployment: SeldonDeployment) -> Iterator[Problem]:
    for path, found in (
        ("/metadata/annotations", deployment.metadata.annotations),
        ("/spec/annotations", deployment.spec.annotations),
    ):
        if NO_ENGINE in found:
            yield error(
                f"{path}/seldon.io~1no-engine",
                f"{NO_ENGINE} has no effect here; it belongs in each predictor's annotations",
            )


def _no_engine(predictor: Predictor, path: str, *, needed: bool) -> Iterator[Problem]:
    value = predictor.annotations.get(NO_ENGINE)
    if value is not None and value.lower() != "true":
        yield error(
            f"{path}/annotations/seldon.io~1no-engine",
            f"{NO_ENGINE} is {value!r}: the webhook counts it as set, the operator as not; allowed: 'true', or none",
        )
    elif value is None and needed and len(predictor.graph.nodes()) == 1:
        yield warning(
            f"{path}/annotations",
            f"{NO_ENGINE} is not set: the service orchestrator adds a hop and hides /predict; "
            "set it to 'true' for a graph of one node",
        )


def _disruption_budgets(deployment: SeldonDeployment) -> Iterator[Problem]:
    budgets = [
        f"/spec/predictors/{index}/componentSpecs/{number}/pdbSpec"
        for index, predictor in enumerate(deployment.predictors)
        for number, component in enumerate(predictor.component_specs)
        if component.pdb_spec is not None
    ]
    for path in budgets[1:]:
        yield error(
            path,
            f"{len(budgets)} pdbSpecs: each selects every pod of {deployment.name}, and overlapping budgets block "
            "eviction; allowed: one, better a PodDisruptionBudget of its own",
        )


def _model_uri(predictor: Predictor, path: str) -> Iterator[Problem]:
    if (uri := predictor.graph.model_uri).startswith(REGISTRY_SCHEMES):
        yield error(
            f"{path}/graph/modelUri",
            f"{uri!r}: the storage initializer does not know the registry; "
            "allowed: s3://, gs://, pvc://name/path, rclone remotes (import the model first: churn-serving import)",
        )


def _components(predictor: Predictor, path: str, *, v2: bool) -> Iterator[Problem]:
    models = {unit.name for unit in predictor.graph.nodes() if runs_in_own_container(unit)}
    for number, component in enumerate(predictor.component_specs):
        here = f"{path}/componentSpecs/{number}"
        hpa = component.hpa_spec
        if hpa is not None:
            if hpa.min_replicas is not None and not 1 <= hpa.min_replicas <= hpa.max_replicas:
                yield error(
                    f"{here}/hpaSpec/minReplicas",
                    f"minReplicas is {hpa.min_replicas}; allowed: 1..maxReplicas ({hpa.max_replicas})",
                )
            if hpa.metrics:
                yield error(
                    f"{here}/hpaSpec/metrics",
                    "metrics is autoscaling/v2beta1 (gone since Kubernetes 1.25) and beats metricsv2; use metricsv2",
                )
            if predictor.replicas is not None or component.replicas is not None:
                yield warning(f"{here}/hpaSpec", "with hpaSpec every `replicas` is ignored; remove one of the two")
        for position, container in enumerate(component.spec.containers):
            at = f"{here}/spec/containers/{position}"
            yield from _name(f"{at}/name", container.name, LABEL, "a container's name")
            if container.name in models:
                yield from _environment(container, at)
                yield from _ports(container, at)
                if v2:
                    yield from _probes(container, at)


def _environment(container: Container, path: str) -> Iterator[Problem]:
    for index, variable in enumerate(container.env):
        if variable.name in OPERATORS_ENV:
            yield error(
                f"{path}/env/{index}",
                f"{variable.name} is the operator's: set here, all other variables of the container are lost; "
                "declare the ports http, grpc and metrics instead",
            )


def _ports(container: Container, path: str) -> Iterator[Problem]:
    declared = [port.name for port in container.ports]
    for name in PORTS:
        if name not in declared:
            yield error(
                f"{path}/ports",
                f"no port named {name!r} (there are: {', '.join(declared) or 'none'}): the operator would number it by "
                "the predictors' order, and reordering them would restart pods; declare http, grpc and metrics",
            )


def _probes(container: Container, path: str) -> Iterator[Problem]:
    ready = ready_path(container.name)
    yield from _probe(container.readiness_probe, f"{path}/readinessProbe", ready, "Ready before the model is loaded")
    yield from _probe(container.liveness_probe, f"{path}/livenessProbe", LIVE_PATH, "alive while the loop hangs")
    if container.startup_probe is not None:
        yield from _probe(container.startup_probe, f"{path}/startupProbe", ready, "started before the model is loaded")
    else:
        yield warning(f"{path}/startupProbe", f"none: a slow start may be killed by liveness; probe {ready} first")


def _probe(probe: Probe | None, path: str, allowed: str, otherwise: str) -> Iterator[Problem]:
    if probe is None or probe.http_get is None:
        kind = "missing" if probe is None else "not HTTP"
        yield error(path, f"{kind}: the pod would be {otherwise}; allowed: httpGet {allowed}")
    elif probe.http_get.path != allowed:
        yield error(
            f"{path}/httpGet/path",
            f"{probe.http_get.path!r}{_other_model(probe.http_get.path, allowed)}; allowed: {allowed}",
        )


def _other_model(path: str, allowed: str) -> str:
    """Return what is wrong with a probe of another model's readiness: the operator names the model as its container."""
    asked, wanted = READY.fullmatch(path), READY.fullmatch(allowed)
    if asked is None or wanted is None:
        return ""
    return (
        f" asks for the model {asked[1]!r}, and this container's model is {wanted[1]!r}: the operator sets "
        "MLSERVER_MODEL_NAME to the container's name, so the pod would never be Ready"
    )


def find_problems(document: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Return every problem of one SeldonDeployment. If its shape is invalid, the other rules are not checked."""
    found = (document.get("apiVersion"), document.get("kind"))
    if found != (API_VERSION, KIND):
        return (error("", f"expected {API_VERSION} {KIND}, this is {found[0]} {found[1]}"),)
    try:
        deployment = SeldonDeployment.model_validate(document)
    except ValidationError as wrong:
        return tuple(error(path, message) for path, message in field_errors(wrong))
    return (*webhook(deployment), *gaps(deployment))
