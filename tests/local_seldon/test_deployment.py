from __future__ import annotations

import copy

import pytest
import yaml

from local_seldon.deployment import check_supported, grace_s, read_manifest, replicas, template
from local_seldon.errors import Unsupported
from local_seldon.process import Backoff
from rollout.errors import ManifestError
from rollout.manifest.parsing import parse
from tests.support.local_seldon_world import manifest, predictor


def test_only_what_a_new_pod_is_needed_for_changes_the_template() -> None:
    before = manifest(predictor("v1", 100))
    same, other = copy.deepcopy(before), copy.deepcopy(before)
    same["spec"]["predictors"][0] |= {"traffic": 40, "replicas": 3}
    same["spec"]["predictors"][0]["componentSpecs"][0]["hpaSpec"] = {"maxReplicas": 5}
    other["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["image"] = "churn-serving:2"
    templates = [template(parse(document).predictors[0]) for document in (before, same, other)]
    assert templates[0] == templates[1] != templates[2]


def test_replicas_come_from_the_autoscalers_least_else_from_the_nearest_field() -> None:
    document = manifest(predictor("v1", 100, replicas=2))
    component = document["spec"]["predictors"][0]["componentSpecs"][0]

    def found() -> int:
        deployment = parse(document)
        return replicas(deployment, deployment.predictors[0])

    assert found() == 2
    component["replicas"] = 3
    assert found() == 3
    component["hpaSpec"] = {"minReplicas": 4, "maxReplicas": 5}
    assert found() == 4
    del component["hpaSpec"], component["replicas"], document["spec"]["predictors"][0]["replicas"]
    assert found() == 1
    document["spec"]["replicas"] = 6
    assert found() == 6


def test_the_grace_period_is_the_pods_else_the_operators() -> None:
    document = manifest(predictor("v1", 100))
    assert grace_s(parse(document).predictors[0]) == 5
    del document["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s(parse(document).predictors[0]) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graph": {"name": "churn", "implementation": "TRITON_SERVER"}}, "the prepackaged server TRITON_SERVER"),
        ({"graph": {"name": "churn", "implementation": "SKLEARN_SERVER"}}, "runs as a node of a graph"),
    ],
)
def test_what_only_a_cluster_can_do_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        check_supported(parse(manifest(predictor("v1", 100) | change)))


def test_a_file_may_hold_other_objects_but_one_deployment() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}
    one = manifest(predictor("v1", 100))
    assert read_manifest(yaml.safe_dump_all([service, one]).encode()).name == "churn"
    with pytest.raises(ManifestError, match="has 2 SeldonDeployments; it must have one"):
        read_manifest(yaml.safe_dump_all([one, one]).encode())


def test_waits_double_to_a_limit_and_a_long_life_begins_anew() -> None:
    backoff = Backoff(first_s=0.5, longest_s=3.0, reset_after_s=60.0)
    assert [backoff.wait_s(deaths) for deaths in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.deaths_in_a_row(4, uptime_s=59.0) == 5
    assert backoff.deaths_in_a_row(4, uptime_s=60.0) == 1
