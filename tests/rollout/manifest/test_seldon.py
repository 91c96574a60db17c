"""The typed SeldonDeployment: changes leave the rest alone, roles follow from traffic, names are the operator's."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import ManifestError
from rollout.manifest.parsing import parse, to_dict
from rollout.manifest.seldon import SeldonDeployment

MANIFEST = """
apiVersion: machinelearning.seldon.io/v1
kind: SeldonDeployment
metadata: {name: churn, namespace: shop, creationTimestamp: 2026-01-02T03:04:05Z, labels: {team: retention}}
spec:
  protocol: v2
  predictors:
    - name: v7
      traffic: 100
      graph: {name: churn, modelUri: "s3://models/7"}
      componentSpecs:
        - spec:
            topologySpreadConstraints:
              - {maxSkew: 1, labelSelector: {matchLabels: {seldon-deployment-id: churn, version: v7}}}
            containers:
              - {name: churn, image: "churn-serving:7", resources: {requests: {cpu: 1}}}
              - {name: log-shipper, image: "shipper:3"}
status: {state: Available, deploymentStatus: {churn-v7-0-churn-log-shipper: {replicas: 2, availableReplicas: 1}}}
"""


@pytest.fixture
def deployment() -> SeldonDeployment:
    return parse(MANIFEST)


@settings(deadline=None)
@given(st.integers(0, 100))
def test_traffic_between_two_predictors_always_sums_to_100(percent: int) -> None:
    two = parse(MANIFEST).with_predictor(parse(MANIFEST).stable.for_version("v8"))
    assert sum(two.with_traffic({"v7": 100 - percent, "v8": percent}).traffic().values()) == 100


def test_a_change_leaves_the_original_and_everything_else_alone(deployment: SeldonDeployment) -> None:
    before = to_dict(deployment)
    canary = deployment.stable.for_version("v8", image="churn-serving:8", model_uri="s3://models/8")
    after = to_dict(deployment.with_predictor(canary).with_traffic({"v7": 90, "v8": 10}))
    assert to_dict(deployment) == before
    old, new = after["spec"]["predictors"]
    assert old == before["spec"]["predictors"][0] | {"traffic": 90}
    assert (new["name"], new["traffic"], new["graph"]["modelUri"]) == ("v8", 10, "s3://models/8")
    model, shipper = new["componentSpecs"][0]["spec"]["containers"]
    assert model == {"name": "churn", "image": "churn-serving:8", "resources": {"requests": {"cpu": 1}}}
    assert shipper["image"] == "shipper:3"
    (spread,) = new["componentSpecs"][0]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == {"seldon-deployment-id": "churn", "version": "v8"}


def test_a_canary_with_no_traffic_says_so_in_the_manifest(deployment: SeldonDeployment) -> None:
    canary = to_dict(deployment.with_predictor(deployment.stable.for_version("v8")))["spec"]["predictors"][1]
    assert canary["traffic"] == 0


def test_roles_follow_from_traffic(deployment: SeldonDeployment) -> None:
    assert deployment.stable.name == "v7"
    assert deployment.canary is None
    two = deployment.with_predictor(deployment.stable.for_version("v8"))
    assert [(two.with_traffic({"v7": 100 - w, "v8": w}).stable.name) for w in (0, 50, 51)] == ["v7", "v7", "v8"]
    assert two.canary is not None
    assert two.canary.name == "v8"


def test_a_shadow_has_no_role(deployment: SeldonDeployment) -> None:
    shadow = deployment.stable.for_version("v8").but(shadow=True, traffic=50)
    shadowed = deployment.with_predictor(shadow)
    assert shadowed.canary is None
    assert shadowed.traffic() == {"v7": 100}


def test_a_lone_predictor_gets_all_traffic_in_the_mesh(deployment: SeldonDeployment) -> None:
    unset = deployment.but(spec=deployment.spec.but(predictors=(deployment.stable.but(traffic=0),)))
    assert unset.traffic() == {"v7": 0}
    assert unset.weights() == {"v7": 100}


def test_names_are_the_operators(deployment: SeldonDeployment) -> None:
    assert deployment.virtual_service_name == "churn"
    assert deployment.service_name("v7") == "churn-v7"
    assert deployment.deployment_names("v7") == ("churn-v7-0-churn-log-shipper",)


def test_names_beyond_63_characters_are_hashed(deployment: SeldonDeployment) -> None:
    long = deployment.but(metadata=deployment.metadata.but(name="c" * 60))
    wanted = "c" * 60 + "-v7"
    assert long.service_name("v7") == wanted  # 63: still fits
    hashed = hashlib.md5(f"{wanted}-0-churn-log-shipper".encode()).hexdigest()
    assert long.deployment_names("v7") == (f"seldon-{hashed}",)


def test_a_name_for_the_pod_replaces_the_containers_names(deployment: SeldonDeployment) -> None:
    component = deployment.stable.component_specs[0]
    named = component.but(metadata=component.metadata.but(name="model"))
    changed = deployment.but(spec=deployment.spec.but(predictors=(deployment.stable.but(component_specs=(named,)),)))
    assert changed.deployment_names("v7") == ("churn-v7-0-model",)


def test_a_service_name_annotation_names_the_service(deployment: SeldonDeployment) -> None:
    named = deployment.stable.for_version("v8").but(annotations={"seldon.io/svc-name": "scores"})
    assert deployment.with_predictor(named).service_name("v8") == "scores"


def test_status_is_read_as_the_operator_writes_it(deployment: SeldonDeployment) -> None:
    assert deployment.status is not None
    assert deployment.status.state == "Available"
    replicas = deployment.status.deployment_status["churn-v7-0-churn-log-shipper"]
    assert (replicas.replicas, replicas.available_replicas) == (2, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.predictor("v9"), r"churn has no predictor 'v9'; it has: v7"),
        (lambda d: d.with_predictor(d.stable), r"churn has a predictor 'v7' already"),
        (lambda d: d.with_traffic({"v9": 100}), r"no predictor 'v9'"),
        (lambda d: d.with_traffic({"v7": 101}), r"traffic of v7 is 101; allowed: 0\.\.100"),
        (lambda d: d.with_traffic({"v7": 99}), r"would sum to 99 .* must be 100"),
        (lambda d: d.stable.but(graph=d.stable.graph.but(name="x")).image, r"no container named 'x'; .* churn, log-sh"),
        (lambda d: d.but(spec=d.spec.but(predictors=())).stable, r"no predictor that answers callers"),
    ],
)
def test_an_impossible_change_says_what_is_allowed(deployment: SeldonDeployment, change: Any, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        change(deployment)
