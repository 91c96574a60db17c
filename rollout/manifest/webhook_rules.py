"""The rules of Seldon Core's validating webhook, with the messages of the operator.

`find_problems` runs these rules on the typed deployment. The operator answers create and update requests with these
messages (seldondeployment_webhook.go). `gaps` reports what the webhook accepts although it breaks the service.
"""

from __future__ import annotations

from collections.abc import Iterator

from rollout.manifest.predictor import Predictor, Unit
from rollout.manifest.problems import Problem, error
from rollout.manifest.seldon import NO_ENGINE, SERVICE_NAME, SeldonDeployment, Spec

PROTOCOLS = ("seldon", "tensorflow", "kfserving", "v2")
TRANSPORTS = ("rest", "grpc")
SERVER_TYPES = ("rpc", "kafka")
# Implementations that are not a prepackaged model server. The operator looks up any other name in its ConfigMap.
BUILT_IN = ("SIMPLE_MODEL", "SIMPLE_ROUTER", "RANDOM_ABTEST", "AVERAGE_COMBINER")
UNKNOWN_IMPLEMENTATION = "UNKNOWN_IMPLEMENTATION"
UNKNOWN_TYPE = "UNKNOWN_TYPE"


def webhook(deployment: SeldonDeployment) -> Iterator[Problem]:
    """Yield every problem that the operator's webhook rejects."""
    spec = deployment.spec
    yield from _choices(spec)
    if not spec.predictors:
        yield error("/spec/predictors", "Graph contains no predictors: the list is empty; at least one is needed")
        return
    yield from _names(spec)
    yield from _traffic(spec)
    for index, predictor in enumerate(spec.predictors):
        path = f"/spec/predictors/{index}"
        nodes = predictor.graph.nodes()
        if NO_ENGINE in predictor.annotations and len(nodes) > 1:
            yield error(
                f"{path}/annotations/{_escaped(NO_ENGINE)}",
                f"Running without engine only valid for single element graphs: {predictor.name} has {len(nodes)} "
                "nodes; remove the annotation or the children",
            )
        yield from _units(predictor.graph, predictor, f"{path}/graph")


def runs_in_own_container(unit: Unit) -> bool:
    """Return whether a container of the manifest serves a node, not a prepackaged server."""
    return unit.implementation in (None, "", UNKNOWN_IMPLEMENTATION)


def _choices(spec: Spec) -> Iterator[Problem]:
    for field, text, value, allowed in (
        ("protocol", "Invalid protocol", spec.protocol, PROTOCOLS),
        ("transport", "Invalid transport", spec.transport, TRANSPORTS),
        ("serverType", "Invalid serverType", spec.server_type, SERVER_TYPES),
    ):
        if value and value not in allowed:
            yield error(f"/spec/{field}", f"{text}: {value!r}; allowed: {', '.join(allowed)}")


def _names(spec: Spec) -> Iterator[Problem]:
    names: dict[str, int] = {}
    services: dict[str, int] = {}
    for index, predictor in enumerate(spec.predictors):
        path = f"/spec/predictors/{index}"
        first = names.setdefault(predictor.name, index)
        if first != index:
            yield error(f"{path}/name", f"Duplicate predictor name: {predictor.name!r} is predictor {first} already")
        service = predictor.annotations.get(SERVICE_NAME)
        if service and (first := services.setdefault(service, index)) != index:
            yield error(
                f"{path}/annotations/{_escaped(SERVICE_NAME)}",
                f"Found duplicate service name in {SERVICE_NAME} with value {service}: predictor {first} has it",
            )


def _traffic(spec: Spec) -> Iterator[Problem]:
    shadows = [(index, predictor) for index, predictor in enumerate(spec.predictors) if predictor.shadow]
    answering = {predictor.name: predictor.traffic for predictor in spec.predictors if not predictor.shadow}
    total = sum(predictor.traffic for predictor in spec.predictors if not predictor.shadow)
    path = "/spec/predictors"
    if len(spec.predictors) == 1 and shadows:
        yield error(
            f"{path}/0/shadow", f"Shadow can not exist as only predictor: {shadows[0][1].name}; add a stable one"
        )
    for index, shadow in shadows[1:]:
        yield error(
            f"{path}/{index}/shadow",
            f"Multiple shadows are not allowed: {shadow.name} is one beside {shadows[0][1].name}; allowed: 1",
        )
    for index, shadow in shadows:
        if not 0 <= shadow.traffic <= 100:
            yield error(
                f"{path}/{index}/traffic",
                "shadow traffic is illegal, the traffic number should be between [0, 100]: "
                f"{shadow.name} has {shadow.traffic}",
            )
    if total != 100 and len(spec.predictors) - len(shadows) > 1:
        yield error(path, f"Traffic must sum to 100 for multiple predictors: it sums to {total} ({_listed(answering)})")
    if 0 < total < 100 and len(spec.predictors) == 1:
        yield error(
            f"{path}/0/traffic",
            f"Traffic must sum be 100 for a single predictor when set: it is {total}; allowed: 100, or leave it out",
        )


def _units(unit: Unit, predictor: Predictor, path: str) -> Iterator[Problem]:
    if runs_in_own_container(unit):
        named = [container.name for container in predictor.containers()]
        if unit.name not in named:
            yield error(
                f"{path}/name",
                f"Can't find container for Predictive Unit: {unit.name!r}; "
                f"it must be a container's name, there are: {', '.join(named) or 'none'}",
            )
        if unit.type == UNKNOWN_TYPE and not unit.methods:
            yield error(
                f"{path}/type",
                "Predictive Unit has no implementation methods defined. Change to a known type or add what methods it "
                f"defines: {unit.name} is {UNKNOWN_TYPE} without methods",
            )
    elif unit.implementation not in BUILT_IN and not unit.model_uri:
        yield error(
            f"{path}/modelUri",
            "Predictive unit modelUri required when using standalone servers: "
            f"{unit.name} ({unit.implementation}) has none; allowed: s3://, gs://, pvc://name/path, rclone remotes",
        )
    if unit.logger is not None and not unit.logger.get("mode"):
        yield error(f"{path}/logger/mode", f"No logger mode specified: {unit.name}; allowed: all, request, response")
    for index, child in enumerate(unit.children):
        yield from _units(child, predictor, f"{path}/children/{index}")


def _listed(traffic: dict[str, int]) -> str:
    return ", ".join(f"{name} {percent}" for name, percent in traffic.items())


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
