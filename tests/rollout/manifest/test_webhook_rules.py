"""One refused manifest for each rule, with the operator's words; then what the operator would let through."""

from typing import Any

import jsonpatch
import pytest

from rollout.manifest.service_checks import find_problems
from tests.support.manifest_cases import CONTAINER, NO_ENGINE, SECOND, VALID, WEBHOOK, P, add, copied, remove

GAPS = {
    "traffic above 100": (
        [add(f"{P}/0/traffic", 150), *copied("v2", traffic=-50)],
        f"{P}/0/traffic",
        "traffic is 150; allowed: 0..100",
    ),
    "traffic below 0": (
        [add(f"{P}/0/traffic", 150), *copied("v2", traffic=-50)],
        f"{P}/1/traffic",
        "traffic is -50; allowed: 0..100",
    ),
    "name starts with a digit": ([add("/metadata/name", "7churn")], "/metadata/name", "allowed: first a-z, then"),
    "name too long": ([add("/metadata/name", "c" * 64)], "/metadata/name", "has 64 characters; allowed: at most 63"),
    "predictor not a label": ([add(f"{P}/0/name", "V_1")], f"{P}/0/name", "'V_1' is not a DNS label"),
    "container not a label": (
        [add(f"{CONTAINER}/name", "Churn"), add(f"{P}/0/graph/name", "Churn")],
        f"{CONTAINER}/name",
        "'Churn' is not a DNS label",
    ),
    "service not a label": (
        [add(f"{P}/0/annotations/seldon.io~1svc-name", "a.b")],
        f"{P}/0/annotations/seldon.io~1svc-name",
        "'a.b' is not a DNS label",
    ),
    "port http": ([add(f"{CONTAINER}/ports/0/name", "web")], f"{CONTAINER}/ports", "no port named 'http'"),
    "port grpc": ([remove(f"{CONTAINER}/ports/1")], f"{CONTAINER}/ports", "no port named 'grpc'"),
    "port metrics": ([remove(f"{CONTAINER}/ports/2")], f"{CONTAINER}/ports", "no port named 'metrics'"),
    "http port in env": (
        [add(f"{CONTAINER}/env/0", {"name": "MLSERVER_HTTP_PORT", "value": "8080"})],
        f"{CONTAINER}/env/0",
        "MLSERVER_HTTP_PORT is the operator's",
    ),
    "grpc port in env": (
        [add(f"{CONTAINER}/env/-", {"name": "MLSERVER_GRPC_PORT", "value": "8081"})],
        f"{CONTAINER}/env/3",
        "MLSERVER_GRPC_PORT is the operator's",
    ),
    **{
        f"{name} in env": (
            [add(f"{CONTAINER}/env/-", {"name": name, "value": "1"})],
            f"{CONTAINER}/env/3",
            f"{name} is the operator's",
        )
        for name in (
            "MLSERVER_MODEL_URI",
            "PREDICTIVE_UNIT_HTTP_SERVICE_PORT",
            "PREDICTIVE_UNIT_GRPC_SERVICE_PORT",
            "PREDICTIVE_UNIT_PARAMETERS",
        )
    },
    "readiness missing": (
        [remove(f"{CONTAINER}/readinessProbe")],
        f"{CONTAINER}/readinessProbe",
        "allowed: httpGet /v2/models/churn/ready",
    ),
    "readiness of the server": (
        [add(f"{CONTAINER}/readinessProbe/httpGet/path", "/v2/health/ready")],
        f"{CONTAINER}/readinessProbe/httpGet/path",
        "'/v2/health/ready'; allowed: /v2/models/churn/ready",
    ),
    "readiness by TCP": (
        [add(f"{CONTAINER}/readinessProbe", {"tcpSocket": {"port": 9000}})],
        f"{CONTAINER}/readinessProbe",
        "not HTTP",
    ),
    "liveness on the model": (
        [add(f"{CONTAINER}/livenessProbe/httpGet/path", "/v2/models/churn/ready")],
        f"{CONTAINER}/livenessProbe/httpGet/path",
        "allowed: /v2/health/live",
    ),
    "startup elsewhere": (
        [add(f"{CONTAINER}/startupProbe/httpGet/path", "/")],
        f"{CONTAINER}/startupProbe/httpGet/path",
        "'/'; allowed: /v2/models/churn/ready",
    ),
    "two disruption budgets": (
        [add(f"{P}/0/componentSpecs/0/pdbSpec", {"maxUnavailable": 1}), *SECOND],
        f"{P}/1/componentSpecs/0/pdbSpec",
        "2 pdbSpecs: each selects every pod of churn",
    ),
    "no-engine on the object": (
        [add("/metadata/annotations", {"seldon.io/no-engine": "true"})],
        "/metadata/annotations/seldon.io~1no-engine",
        "it belongs in each predictor's annotations",
    ),
    "no-engine on the spec": (
        [add("/spec/annotations/seldon.io~1no-engine", "true")],
        "/spec/annotations/seldon.io~1no-engine",
        "it belongs in each predictor's annotations",
    ),
    "no-engine false": ([add(NO_ENGINE, "false")], NO_ENGINE, "the webhook counts it as set, the operator as not"),
    "registry as model URI": (
        [add(f"{P}/0/graph/modelUri", "models:/churn/7")],
        f"{P}/0/graph/modelUri",
        "allowed: s3://, gs://, pvc://name/path",
    ),
    "autoscaler bounds": (
        [add(f"{P}/0/componentSpecs/0/hpaSpec/minReplicas", 9)],
        f"{P}/0/componentSpecs/0/hpaSpec/minReplicas",
        "minReplicas is 9; allowed: 1..maxReplicas (2)",
    ),
    "old metrics": (
        [add(f"{P}/0/componentSpecs/0/hpaSpec/metrics", [{"type": "Resource"}])],
        f"{P}/0/componentSpecs/0/hpaSpec/metrics",
        "use metricsv2",
    ),
    "shape": ([add(f"{P}/0/traffic", "100")], f"{P}/0/traffic", "valid integer, this is '100'"),
    "graph missing": ([remove(f"{P}/0/graph")], f"{P}/0/graph", "Field required"),
    "another kind": ([add("/kind", "Deployment")], "", "this is machinelearning.seldon.io/v1 Deployment"),
}

WARNINGS = {
    "engine": ([remove(NO_ENGINE)], f"{P}/0/annotations", "the service orchestrator adds a hop and hides /predict"),
    "startup missing": (
        [remove(f"{CONTAINER}/startupProbe")],
        f"{CONTAINER}/startupProbe",
        "may be killed by liveness",
    ),
    "replicas beside hpa": ([add(f"{P}/0/replicas", 3)], f"{P}/0/componentSpecs/0/hpaSpec", "`replicas` is ignored"),
    "hashed service": (
        [add("/metadata/name", "c" * 62)],
        f"{P}/0/name",
        "the Service would be called seldon-<md5>",
    ),
}


def found(operations: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    document = jsonpatch.apply_patch(VALID, operations)
    return [(problem.severity, problem.path, problem.message) for problem in find_problems(document)]


def test_the_base_manifest_has_no_finding() -> None:
    assert found([]) == []


def test_a_canary_and_a_shadow_are_accepted() -> None:
    assert found([add(f"{P}/0/traffic", 90), *copied("v2", traffic=10)]) == []
    assert found(copied("v2", shadow=True, traffic=30)) == []


@pytest.mark.parametrize("rule", WEBHOOK)
def test_what_the_operator_refuses_is_refused_in_its_words(rule: str) -> None:
    operations, path, words = WEBHOOK[rule]
    matching = [message for severity, at, message in found(operations) if severity == "error" and at == path]
    assert any(message.startswith(words) for message in matching), found(operations)


@pytest.mark.parametrize("rule", GAPS)
def test_what_the_operator_lets_through_is_refused_with_what_is_allowed(rule: str) -> None:
    operations, path, words = GAPS[rule]
    matching = [message for severity, at, message in found(operations) if severity == "error" and at == path]
    assert any(words in message for message in matching), found(operations)


@pytest.mark.parametrize("rule", WARNINGS)
def test_what_only_surprises_is_a_warning(rule: str) -> None:
    operations, path, words = WARNINGS[rule]
    matching = [message for severity, at, message in found(operations) if severity == "warning" and at == path]
    assert any(words in message for message in matching), found(operations)
    assert all(severity == "warning" for severity, _, _ in found(operations))


def test_every_finding_is_reported_not_the_first_alone() -> None:
    operations = [add("/spec/protocol", "v2"), remove(f"{CONTAINER}/ports/2"), remove(f"{CONTAINER}/livenessProbe")]
    assert len(found([*operations, add(f"{P}/0/traffic", 40)])) == 3


def test_the_seldon_protocol_has_no_v2_probes() -> None:
    operations = [add("/spec/protocol", "seldon"), remove(f"{CONTAINER}/readinessProbe"), remove(NO_ENGINE)]
    assert found(operations) == []
