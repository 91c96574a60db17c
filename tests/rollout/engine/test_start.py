"""A new version as a predictor: what changes, and what must not."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.engine.start import Release, predictor_for
from rollout.errors import PlanError
from rollout.manifest.parsing import parse, to_dict
from tests.support.rollout_world import manifest


@pytest.fixture
def stable() -> Any:
    document = manifest()
    document["spec"]["predictors"][0]["labels"] = {"version": "v7", "team": "growth"}
    document["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["env"] = [
        {"name": "SERVING_FEATURE_STORE", "value": "redis://store"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    return parse(document).stable


def test_only_what_the_release_names_is_new(stable: Any) -> None:
    canary = predictor_for(stable, Release("v8", image="churn:8"))
    before, after = to_dict(stable), to_dict(canary)
    container = after["componentSpecs"][0]["spec"]["containers"][0]
    assert (after["name"], container["image"], after["traffic"]) == ("v8", "churn:8", 0)
    assert after["labels"] == {"version": "v8", "team": "growth"}
    container["image"] = "churn:7"
    assert after["componentSpecs"] == before["componentSpecs"]
    assert after["graph"] == before["graph"]
    assert after["annotations"] == before["annotations"]


def test_a_model_uri_and_an_environment_are_laid_over(stable: Any) -> None:
    release = Release("v8", model_uri="s3://models/8", env={"SERVING_FEATURE_STORE": "redis://other", "NEW": "1"})
    after = to_dict(predictor_for(stable, release))
    assert after["graph"]["modelUri"] == "s3://models/8"
    assert after["componentSpecs"][0]["spec"]["containers"][0]["env"] == [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "SERVING_FEATURE_STORE", "value": "redis://other"},
        {"name": "NEW", "value": "1"},
    ]


def test_a_release_that_brings_nothing_new_is_refused() -> None:
    with pytest.raises(PlanError, match="give --image, --model-uri or --env"):
        Release("v8")


def test_the_name_of_the_version_that_serves_is_refused(stable: Any) -> None:
    with pytest.raises(PlanError, match="serves now"):
        predictor_for(stable, Release("v7", image="churn:8"))


@pytest.mark.parametrize("port", ["http", "grpc", "metrics"])
def test_a_port_that_the_operator_would_number_is_refused_before_pods_restart(port: str) -> None:
    document = manifest()
    ports = document["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["ports"]
    ports[:] = [one for one in ports if one["name"] != port]
    with pytest.raises(PlanError, match=f"no port named {port}"):
        predictor_for(parse(document).stable, Release("v8", image="churn:8"))
