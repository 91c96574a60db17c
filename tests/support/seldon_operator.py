"""Seldon's operator as a promoter sees it, working through any API server: status, VirtualService, frozen weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from rollout.manifest.parsing import parse
from rollout.manifest.seldon import SeldonDeployment
from rollout.targets.kubernetes import DEPLOYMENT, ISTIO, SELDON
from rollout.targets.target import Readiness
from tests.support.kube_api import INJECTED
from tests.support.programs import GUARD_S
from tests.support.targets.memory import mirrored, reconcile, status


class SeldonOperator:
    """Reconciles every SeldonDeployment of a namespace. unready: predictors whose pods are not. paused: it sleeps."""

    def __init__(self, kubeconfig: str, namespace: str, *, starts_in_s: float = 0.2, every_s: float = 0.05) -> None:
        settings = client.Configuration()
        config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
        self._api = client.CustomObjectsApi(client.ApiClient(settings))
        self._namespace = namespace
        self._starts_in_s = starts_in_s
        self._every_s = every_s
        self._born_s: dict[str, float] = {}
        self._deployed: dict[str, dict[str, int]] = {}
        self._rounds = 0
        self._refused: ApiException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.unready: set[str] = set()
        self.paused = False
        self.mesh_history: list[dict[str, int]] = []
        self.error: Exception | None = None

    def __enter__(self) -> SeldonOperator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(GUARD_S)
        self._api.api_client.close()

    @property
    def state(self) -> str:
        """What the failure of a test says of it."""
        works = "works" if self._thread.is_alive() else "has ended"
        return f"operator {works} after {self._rounds} rounds; last refusal: {self._refused!r}; error: {self.error!r}"

    def _work(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._rounds += 1
            try:
                found: Any = self._api.list_namespaced_custom_object(**SELDON, namespace=self._namespace)
                for manifest in found["items"]:
                    self._reconcile(manifest)
            except ApiException as error:
                self._refused = error
                if error.status not in (404, 409) and INJECTED not in str(error.body):
                    self.error = error
            except Exception as error:  # the thread would end, and nobody would see why
                self.error = error

    def _reconcile(self, manifest: dict[str, Any]) -> None:
        deployment = parse(manifest)
        now_s = time.monotonic()
        names = [predictor.name for predictor in deployment.predictors]
        self._born_s = {name: self._born_s.get(name, now_s if self._born_s else float("-inf")) for name in names}
        readiness = {
            name: Readiness(1, 0 if name in self.unready or now_s - self._born_s[name] < self._starts_in_s else 1)
            for name in names
        }
        self._scale(deployment, readiness)
        if self.paused:
            return
        weights = dict(reconcile(deployment, readiness, {}))
        if weights and set(weights) == set(deployment.traffic()):
            self._route(deployment, weights, mirrored(deployment))
        wanted = status(deployment, readiness)
        if manifest.get("status") != wanted:
            # A merge patch would keep the Deployments of predictors that are gone.
            gone = dict.fromkeys((manifest.get("status") or {}).get("deploymentStatus") or {})
            wanted["deploymentStatus"] = gone | wanted["deploymentStatus"]
            self._api.patch_namespaced_custom_object_status(
                **SELDON,
                namespace=self._namespace,
                name=deployment.name,
                body={"status": wanted},
                _content_type="application/merge-patch+json",
            )

    def _scale(self, deployment: SeldonDeployment, readiness: dict[str, Readiness]) -> None:
        """Write the Deployments: the operator makes and deletes them, and Kubernetes keeps their status without it."""
        wanted = {
            one: {"replicas": found.replicas, "availableReplicas": found.available}
            for name, found in readiness.items()
            for one in deployment.deployment_names(name)
        }
        where = {**DEPLOYMENT, "namespace": self._namespace}
        for name, found_status in wanted.items():
            known = self._deployed.get(name)
            if known is None and not self.paused:
                self._create(where, _deployment(name, found_status["replicas"]))
                known = self._deployed[name] = {}
            if known is not None and known != found_status:
                ready = found_status["availableReplicas"]
                self._api.patch_namespaced_custom_object_status(
                    **where,
                    name=name,
                    body={"status": {**found_status, "readyReplicas": ready}},
                    _content_type="application/merge-patch+json",
                )
                self._deployed[name] = found_status
        for name in [] if self.paused else self._deployed.keys() - wanted.keys():
            with expected(404):
                self._api.delete_namespaced_custom_object(**where, name=name)
            del self._deployed[name]

    def _create(self, where: dict[str, Any], body: dict[str, Any]) -> None:
        with expected(409):
            self._api.create_namespaced_custom_object(**where, body=body)

    def _route(self, deployment: SeldonDeployment, weights: dict[str, int], mirrors: dict[str, int]) -> None:
        mirror: dict[str, Any] = {}
        route = [
            {
                "destination": {
                    "host": f"{deployment.service_name(name)}.{self._namespace}.svc.cluster.local",
                    "subset": name,
                    "port": {"number": 9000},
                },
                "weight": weight,
            }
            for name, weight in weights.items()
        ]
        for name, percent in mirrors.items():
            host = f"{deployment.service_name(name)}.{self._namespace}.svc.cluster.local"
            copied = {"host": host, "subset": name, "port": {"number": 9000}}
            mirror = {"mirror": copied, "mirrorPercentage": {"value": percent}}
        prefix = f"/seldon/{self._namespace}/{deployment.name}/"
        http = [
            {"match": [{"uri": {"prefix": prefix}}], "rewrite": {"uri": "/"}, "route": route, **mirror},
            {"match": [{"headers": {"seldon": {"exact": deployment.name}}}], "route": route, **mirror},
        ]
        where = {**ISTIO, "namespace": self._namespace}
        spec = {"hosts": ["*"], "gateways": ["churn"], "http": http}
        name = deployment.virtual_service_name
        try:
            found: Any = self._api.get_namespaced_custom_object(**where, name=name)
        except ApiException as error:
            if error.status != 404:
                raise
            body = {
                "apiVersion": f"{ISTIO['group']}/{ISTIO['version']}",
                "kind": "VirtualService",
                "metadata": {"name": name},
                "spec": spec,
            }
            self._create(where, body)
            self.mesh_history.append(weights)
            return
        if found["spec"] != spec:
            self._api.replace_namespaced_custom_object(**where, name=name, body={**found, "spec": spec})
            self.mesh_history.append(weights)


@contextmanager
def expected(status: int) -> Iterator[None]:
    """Accept the refusal of a write that an earlier round made and whose answer it did not see."""
    try:
        yield
    except ApiException as error:
        if error.status != status:
            raise


def _deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "churn", "image": "churn"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
