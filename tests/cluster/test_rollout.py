"""The rollout's contract and whole rollouts against a real API server, as the promoter's own account.

KUBECONFIG names the cluster. The operator is the suite's stand-in (a label keeps Seldon's own away from the test's
deployment), so neither Seldon Core nor Istio has to run: their CRDs are enough. SERVING_TEST_INSTALL_CRDS=1 installs
those that are missing, the SeldonDeployment's from ../shared/crds.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from kubernetes import client, config, utils
from kubernetes.client.exceptions import ApiException

from rollout.engine.session import Session
from rollout.engine.start import Release
from rollout.engine.state import Phase
from rollout.errors import Conflict, Denied, NotFound, Rejected
from rollout.plan.plan import Plan, Step
from rollout.targets.kubernetes import ISTIO, SELDON, KubernetesTarget
from rollout.targets.kubernetes_connection import Connection
from tests.support.prometheus_api import Traffic, prometheus_api
from tests.support.rollout_world import Diary, manifest
from tests.support.seldon_operator import SeldonOperator
from tests.support.targets.contract import Contract
from tests.support.targets.scene import Scene

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),  # a KUBECONFIG may say insecure-skip-tls-verify
]

ROOT = Path(__file__).parents[2]
CRD = ROOT.parent / "shared/crds/seldondeployments.machinelearning.seldon.io-1.17.1.yaml"
NOT_SELDONS = {"seldon.io/controller-id": "stand-in"}  # the operator leaves other controllers' deployments alone
STEPS = tuple(Step(weight, min_duration_s=0.2, max_duration_s=60) for weight in (10, 50, 100))
PLAN = Plan(steps=STEPS, interval_s=0.2, unready_deadline_s=1.0, rollback_deadline_s=5.0)


@pytest.fixture(scope="module")
def admin() -> client.ApiClient:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set: name a cluster to run these tests against")
    settings = client.Configuration()
    config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=settings)
    api = client.ApiClient(settings)
    for kind, definition in ((SELDON, _seldon_crd), (ISTIO, _istio_crd)):
        _installed(api, kind, definition)
    return api


def _installed(api: client.ApiClient, kind: dict[str, Any], definition: Any) -> None:
    custom = client.CustomObjectsApi(api)
    where = {key: kind[key] for key in ("group", "version", "plural")}
    try:
        custom.list_cluster_custom_object(**where)
    except ApiException as error:
        if error.status != 404:
            raise
        if os.environ.get("SERVING_TEST_INSTALL_CRDS") != "1":
            pytest.skip(f"the cluster has no {kind['plural']}: install them, or set SERVING_TEST_INSTALL_CRDS=1")
        body = definition()
        client.ApiextensionsV1Api(api).create_custom_resource_definition(body)
        Scene(cast(Any, None), lambda name, on: None).until(lambda: _served(custom, where))


def _served(custom: client.CustomObjectsApi, where: dict[str, Any]) -> bool:
    try:
        custom.list_cluster_custom_object(**where)
    except ApiException:
        return False
    return True


def _seldon_crd() -> Any:
    if not CRD.exists():
        pytest.skip(f"{CRD} is not there: install Seldon Core's CRD yourself")
    return yaml.safe_load(CRD.read_text())


def _istio_crd() -> Any:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": ISTIO["version"], "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": ISTIO["plural"], "singular": "virtualservice", "kind": "VirtualService"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{ISTIO['plural']}.{ISTIO['group']}"},
        "spec": {"group": ISTIO["group"], "names": names, "scope": "Namespaced", "versions": [version]},
    }


@pytest.fixture
def namespace(admin: client.ApiClient) -> Iterator[str]:
    name = f"churn-test-{secrets.token_hex(4)}"
    core = client.CoreV1Api(admin)
    core.create_namespace(cast(Any, {"metadata": {"name": name}}))
    yield name
    core.delete_namespace(name)


@pytest.fixture
def promoter(admin: client.ApiClient, namespace: str, tmp_path: Path) -> Path:
    """A KUBECONFIG for an account that has the rights of seldon/base/promoter-role.yaml, and no others."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "churn-promoter"}}
    documents = list(yaml.safe_load_all((ROOT / "seldon/base/promoter-role.yaml").read_text()))
    for document in (account, *documents):
        for subject in document.get("subjects", ()):
            subject["namespace"] = namespace
        utils.create_from_dict(admin, document, namespace=namespace)
    asked = client.CoreV1Api(admin).create_namespaced_service_account_token(
        "churn-promoter", namespace, cast(Any, {"spec": {"expirationSeconds": 3600}})
    )
    kubeconfig = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    kubeconfig["users"] = [{"name": "promoter", "user": {"token": cast(Any, asked).status.token}}]
    for context in kubeconfig["contexts"]:
        context["context"] |= {"user": "promoter", "namespace": namespace}
    file = tmp_path / "promoter.kubeconfig"
    file.write_text(yaml.safe_dump(kubeconfig))
    return file


@pytest.fixture
def operator(admin: client.ApiClient, namespace: str) -> Iterator[SeldonOperator]:
    body = manifest()
    body["metadata"] |= {"namespace": namespace, "labels": NOT_SELDONS}
    client.CustomObjectsApi(admin).create_namespaced_custom_object(
        **SELDON, namespace=namespace, body=body, field_validation="Strict"
    )
    with SeldonOperator(os.environ["KUBECONFIG"], namespace) as working:
        yield working
        assert working.error is None


@pytest.fixture
def scene(operator: SeldonOperator, promoter: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("KUBECONFIG", str(promoter))

    def unready(name: str, on: bool) -> None:
        (operator.unready.add if on else operator.unready.discard)(name)

    target = KubernetesTarget("churn", Connection())
    scene = Scene(target, unready)
    scene.until(lambda: (seen := target.read()).available and seen.mesh_weights == {"v7": 100})
    return scene


class TestContract(Contract):
    """The same as for the other places; the webhook is Seldon's own, and need not run here."""

    test_what_the_webhook_refuses_is_refused_and_changes_nothing = None  # type: ignore[assignment]


def test_a_rollout_ends_with_the_new_version_alone(scene: Scene, operator: SeldonOperator) -> None:
    traffic = Traffic(lambda: operator.mesh_history[-1])
    session = Session(scene.target, lease_s=1)
    session.begin(lambda: session.prepare(Release("v8", image="churn:8"), PLAN))
    outcome = _drive(session, traffic)
    assert outcome.state.phase is Phase.SUCCEEDED, outcome.state.message
    scene.until(lambda: scene.target.read().mesh_weights == {"v8": 100})
    assert all(sum(weights.values()) == 100 for weights in operator.mesh_history)
    session.begin(lambda: session.prepare_undo(PLAN))
    assert _drive(session, traffic).state.phase is Phase.SUCCEEDED
    assert set(scene.target.read().deployment.traffic()) == {"v7"}


@pytest.mark.parametrize("crashes", [True, False], ids=["crash-loop", "errors"])
def test_a_bad_version_is_taken_back(scene: Scene, operator: SeldonOperator, crashes: bool) -> None:
    traffic = Traffic(lambda: operator.mesh_history[-1])
    session = Session(scene.target, lease_s=1)
    session.begin(lambda: session.prepare(Release("v8", image="churn:8"), PLAN))
    scene.until(lambda: scene.target.read().mesh_weights == {"v7": 100, "v8": 0})

    def crash() -> bool:
        if operator.mesh_history[-1].get("v8") == 10:
            scene.unready("v8", True)
        return False

    if not crashes:
        traffic.errors["v8"] = 0.2
    outcome = _drive(session, traffic, stop=crash if crashes else lambda: False)
    assert outcome.state.rollback_stage == ("removal" if crashes else "weights")
    assert outcome.state.phase is Phase.ROLLED_BACK, outcome.state.message
    assert set(scene.target.read().deployment.traffic()) == {"v7"}


def _drive(session: Session, traffic: Traffic, stop: Callable[[], bool] = lambda: False) -> Any:
    from rollout.evidence.prometheus import PrometheusSource

    with prometheus_api(traffic) as url:
        source = PrometheusSource(url)
        try:
            return session.drive(source, Diary(), stop=stop)
        finally:
            source.close()


def test_an_unknown_field_is_refused_by_strict_validation(scene: Scene) -> None:
    with pytest.raises(Rejected, match="unknown field"):
        scene.target.patch([{"op": "add", "path": "/spec/predictors/0/trafic", "value": 100}])


def test_a_value_of_the_wrong_type_is_refused(scene: Scene) -> None:
    with pytest.raises(Rejected):
        scene.target.patch([{"op": "add", "path": "/spec/predictors/0/traffic", "value": "many"}])


def test_a_stale_resource_version_is_a_conflict(scene: Scene) -> None:
    version = scene.target.read().manifest["metadata"]["resourceVersion"]
    scene.target.patch(
        [{"op": "add", "path": "/metadata/annotations", "value": {"changed": "yes"}}],
    )
    with pytest.raises(Conflict):
        scene.target.patch(
            [
                {"op": "test", "path": "/metadata/resourceVersion", "value": version},
                {"op": "add", "path": "/metadata/annotations/again", "value": "yes"},
            ]
        )
    with pytest.raises(Conflict):  # the API server's own check: a patch that names an old version
        scene.target.patch([{"op": "replace", "path": "/metadata/resourceVersion", "value": version}])


def test_what_the_account_may_not_do_is_denied_in_words(scene: Scene, promoter: Path) -> None:
    other = KubernetesTarget("other", Connection())
    with pytest.raises((Denied, NotFound)) as caught:
        other.patch([{"op": "add", "path": "/metadata/labels", "value": {}}])
    assert "seldondeployments other" in str(caught.value)


def test_a_token_that_is_none_is_denied(scene: Scene, promoter: Path) -> None:
    kubeconfig = yaml.safe_load(promoter.read_text())
    kubeconfig["users"][0]["user"] = {"token": "not-a-token"}
    promoter.write_text(yaml.safe_dump(kubeconfig))
    with pytest.raises(Denied, match="renew the credentials"):
        KubernetesTarget("churn", Connection()).read()
