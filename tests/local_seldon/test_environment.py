from __future__ import annotations

import json
from typing import Any

import pytest

from local_seldon.environment import ARTIFACTS, Overrides, environment
from local_seldon.errors import MissingArtifact, Unsupported
from local_seldon.replica import Ports
from rollout.manifest.parsing import parse
from tests.support.local_seldon_world import manifest, predictor

PORTS = Ports(9001, 9501, 6001)
KNOWN = Overrides(artifacts={"churn-serving:1": "/bundles/1"})


def seen(document: dict[str, Any], overrides: Overrides = KNOWN, **inherited: str) -> dict[str, str]:
    deployment = parse(document)
    return environment(deployment, deployment.predictors[0], PORTS, overrides, inherited)


def test_everything_that_the_operator_injects_is_there() -> None:
    assert seen(manifest(predictor("v1", 100))) == {
        "MLSERVER_HTTP_PORT": "9001",
        "MLSERVER_GRPC_PORT": "9501",
        "MLSERVER_METRICS_PORT": "6001",
        "MLSERVER_METRICS_ENDPOINT": "/prometheus",
        "MLSERVER_MODEL_NAME": "churn",
        "MLSERVER_MODEL_URI": "/bundles/1",
        "MLSERVER_HOST": "127.0.0.1",
        "PREDICTIVE_UNIT_ID": "churn",
        "PREDICTIVE_UNIT_IMAGE": "churn-serving:1",
        "PREDICTIVE_UNIT_SERVICE_PORT": "9001",
        "PREDICTIVE_UNIT_HTTP_SERVICE_PORT": "9001",
        "PREDICTIVE_UNIT_GRPC_SERVICE_PORT": "9501",
        "PREDICTIVE_UNIT_METRICS_SERVICE_PORT": "6001",
        "PREDICTIVE_UNIT_METRICS_ENDPOINT": "/prometheus",
        "PREDICTIVE_UNIT_PARAMETERS": "[]",
        "PREDICTOR_ID": "v1",
        "PREDICTOR_LABELS": '{"version": "v1"}',
        "SELDON_DEPLOYMENT_ID": "churn",
        "SELDON_EXECUTOR_ENABLED": "true",
    }


def test_a_pod_inherits_paths_and_language_only() -> None:
    assert "SERVING_DOCS" not in seen(manifest(predictor("v1", 100)), PATH="/bin", SERVING_DOCS="false")
    assert seen(manifest(predictor("v1", 100)), PATH="/bin")["PATH"] == "/bin"


def test_overrides_win_over_the_manifest_and_one_predictors_over_all() -> None:
    document = manifest(predictor("v1", 100, env={"A": "manifest", "B": "manifest", "C": "manifest"}))
    overrides = Overrides(
        artifacts=KNOWN.artifacts, env={"B": "all", "C": "all"}, predictor_env={"v1": {"C": "v1"}, "v2": {"A": "v2"}}
    )
    found = seen(document, overrides)
    assert (found["A"], found["B"], found["C"]) == ("manifest", "all", "v1")


def test_the_model_is_found_by_uri_then_by_image_and_the_annotation_knows_too() -> None:
    document = manifest(predictor("v1", 100))
    graph = document["spec"]["predictors"][0]["graph"]
    graph["modelUri"] = "file:///srv/bundle"
    assert seen(document)["MLSERVER_MODEL_URI"] == "/srv/bundle"
    graph["modelUri"] = "s3://models/churn/1"
    with pytest.raises(
        MissingArtifact, match=r"modelUri 's3://models/churn/1'; known: churn-serving:1; give `up --art"
    ):
        seen(document)
    document["metadata"]["annotations"] = {ARTIFACTS: json.dumps({"s3://models/churn/1": "/annotated"})}
    assert seen(document)["MLSERVER_MODEL_URI"] == "/annotated"
    document["metadata"]["annotations"] = {ARTIFACTS: "bundle"}
    with pytest.raises(MissingArtifact, match="a JSON object"):
        seen(document)


def test_a_secret_is_asked_for_by_the_variables_name() -> None:
    document = manifest(predictor("v1", 100))
    container = document["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]
    source = {"secretKeyRef": {"name": "store", "key": "url"}}
    container["env"] = [{"name": "SERVING_FEATURE_STORE", "valueFrom": source}]
    with pytest.raises(Unsupported, match="give `up --env SERVING_FEATURE_STORE=VALUE`"):
        seen(document)
    given = Overrides(artifacts=KNOWN.artifacts, env={"SERVING_FEATURE_STORE": "sqlite:///x.db"})
    assert seen(document, given)["SERVING_FEATURE_STORE"] == "sqlite:///x.db"
    source["secretKeyRef"]["optional"] = True  # type: ignore[assignment]
    assert "SERVING_FEATURE_STORE" not in seen(document)
