"""An API server over HTTP with Seldon's operator behind it, a deployment in it, and a metric source beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client

from rollout.manifest.parsing import parse
from rollout.targets.kubernetes import SELDON, KubernetesTarget
from rollout.targets.kubernetes_connection import Connection
from tests.support.kube_api import KubeApi, kube_api
from tests.support.programs import GUARD_S, eventually
from tests.support.prometheus_api import Traffic, prometheus_api
from tests.support.rollout_world import manifest
from tests.support.seldon_operator import SeldonOperator


@dataclass
class Cluster:
    """Everything around one deployment named churn."""

    api: KubeApi
    operator: SeldonOperator
    traffic: Traffic
    prometheus: str
    kubeconfig: Path
    target: KubernetesTarget

    def until(self, weights: Mapping[str, int]) -> None:
        """Wait until the mesh has these weights."""
        eventually(lambda: self.target.read().mesh_weights, lambda seen: seen == weights)


@contextmanager
def clustered(directory: Path) -> Iterator[Cluster]:
    """Run the cluster with KUBECONFIG set; at the end, check that all weights ever written sum to 100."""
    with kube_api(directory) as (api, kubeconfig):
        before, os.environ["KUBECONFIG"] = os.environ.get("KUBECONFIG"), str(kubeconfig)
        connection = Connection(timeout_s=GUARD_S)
        create = client.CustomObjectsApi.create_namespaced_custom_object
        connection.call("create it", create, **SELDON, namespace="models", body=manifest())
        traffic = Traffic(lambda: operator.mesh_history[-1] if operator.mesh_history else {})
        try:
            with SeldonOperator(str(kubeconfig), "models") as operator, prometheus_api(traffic) as url:
                target = KubernetesTarget("churn", connection)
                cluster = Cluster(api, operator, traffic, url, kubeconfig, target)
                cluster.until({"v7": 100})
                eventually(lambda: target.read().available)  # the status is written after the mesh
                yield cluster
            assert operator.error is None
            assert all(sum(parse(written).weights().values()) == 100 for written in api.written)
            assert all(sum(weights.values()) == 100 for weights in operator.mesh_history)
        finally:
            del os.environ["KUBECONFIG"]
            if before is not None:
                os.environ["KUBECONFIG"] = before
