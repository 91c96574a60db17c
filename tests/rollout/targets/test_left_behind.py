"""What the operator leaves behind of a removed predictor is deleted, and only when nothing is routed by it any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from rollout.errors import Denied
from rollout.targets.kubernetes import ISTIO, SELDON, KubernetesTarget
from rollout.targets.kubernetes_connection import Connection
from tests.support.kube_api import KubeApi, kube_api
from tests.support.programs import GUARD_S
from tests.support.rollout_world import manifest

RULES = ISTIO | {"plural": "destinationrules"}


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    with kube_api(tmp_path) as (server, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield server


class Cluster:
    """One deployment with v7 alone, a VirtualService, and the DestinationRules of v7 and v8."""

    def __init__(self, *, routed: tuple[str, ...]) -> None:
        self.connection = Connection(timeout_s=GUARD_S)
        self.target = KubernetesTarget("churn", self.connection)
        self._create(SELDON, manifest())
        route = [
            {"destination": {"host": f"churn-{name}.models.svc.cluster.local", "subset": name}, "weight": weight}
            for name, weight in zip(routed, (100, 0), strict=False)
        ]
        if route:
            self._create(ISTIO, {"metadata": {"name": "churn"}, "spec": {"http": [{"route": route}]}})
        for name in ("churn-v7", "churn-v8"):
            self._create(RULES, {"metadata": {"name": name}, "spec": {"host": name}})

    def _create(self, kind: dict[str, Any], body: dict[str, Any]) -> None:
        create = client.CustomObjectsApi.create_namespaced_custom_object
        self.connection.call("create it", create, **kind, namespace="models", body=body)

    def rules(self) -> list[str]:
        listing = client.CustomObjectsApi.list_namespaced_custom_object
        found = self.connection.call("list rules", listing, **RULES, namespace="models")
        return sorted(one["metadata"]["name"] for one in found["items"])


@pytest.mark.usefixtures("api")
def test_the_rule_of_a_removed_predictor_is_deleted_once() -> None:
    cluster = Cluster(routed=("v7",))
    cluster.target.forget("v8")
    assert cluster.rules() == ["churn-v7"]
    cluster.target.forget("v8")
    assert cluster.rules() == ["churn-v7"]


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize("routed", [("v7", "v8"), ()], ids=["still a route", "nothing known of the mesh"])
def test_a_rule_that_a_route_may_need_stays(routed: tuple[str, ...]) -> None:
    cluster = Cluster(routed=routed)
    cluster.target.forget("v8")
    assert cluster.rules() == ["churn-v7", "churn-v8"]


@pytest.mark.usefixtures("api")
def test_the_rule_of_a_predictor_that_is_there_stays() -> None:
    cluster = Cluster(routed=("v7",))
    cluster.target.forget("v7")
    assert cluster.rules() == ["churn-v7", "churn-v8"]


def test_a_missing_right_is_said(api: KubeApi) -> None:
    cluster = Cluster(routed=("v7",))
    api.fault = lambda method, plural, name: (403, "no") if plural == "destinationrules" else None
    with pytest.raises(Denied):
        cluster.target.forget("v8")
