"""The manifests against a real API server: strict field validation, RBAC, and the operator's webhook where it runs.

KUBECONFIG names the cluster; every run has a fresh namespace and deletes it. Kinds of other projects are only applied
where their CRDs are installed. SERVING_TEST_INSTALL_CRDS=1 installs the SeldonDeployment's from ../shared/crds.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from rollout.manifest.rendering import kustomized
from tests.support.manifest_cases import VALID, WEBHOOK

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CRD = ROOT.parent / "shared/crds/seldondeployments.machinelearning.seldon.io-1.17.1.yaml"
OVERLAYS = ("kind", "production", "canary", "shadow")
SELDON = "seldondeployments.machinelearning.seldon.io"
ISTIO = "virtualservices.networking.istio.io"
MAY_BE_MISSING = {"Gateway"}  # Istio's

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kubectl() -> Kubectl:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set: name a cluster to run these tests against")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: https://kubernetes.io/docs/tasks/tools")

    def run(*arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[str]:
        text = None if stdin is None else json.dumps(stdin)
        command = ["kubectl", "--request-timeout=30s", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=90, check=False)

    if (answer := run("get", "--raw", "/version")).returncode != 0:
        pytest.skip(f"the cluster of KUBECONFIG does not answer: {answer.stderr.strip()}")
    return run


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"churn-test-{secrets.token_hex(4)}"
    created = kubectl("create", "namespace", name)
    assert created.returncode == 0, created.stderr
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def kinds(kubectl: Kubectl) -> set[str]:
    """Return the kinds that the cluster knows, the SeldonDeployment among them."""

    def known() -> set[str]:
        listed = kubectl("api-resources", "--no-headers").stdout
        return {line.split()[-1] for line in listed.splitlines() if line.split()}

    if "SeldonDeployment" not in known() and os.environ.get("SERVING_TEST_INSTALL_CRDS") == "1":
        applied = kubectl("apply", "--server-side", "-f", str(CRD))
        assert applied.returncode == 0, applied.stderr
        waited = kubectl("wait", "--for=condition=Established", f"crd/{SELDON}", "--timeout=30s")
        assert waited.returncode == 0, waited.stderr
    if "SeldonDeployment" not in known():
        pytest.skip("the cluster has no SeldonDeployment: install Seldon Core, or set SERVING_TEST_INSTALL_CRDS=1")
    return known()


def moved(objects: tuple[dict[str, Any], ...], namespace: str) -> list[dict[str, Any]]:
    """Put an overlay's objects, but its Namespace, into another namespace."""
    copies = [json.loads(json.dumps(one)) for one in objects if one["kind"] != "Namespace"]
    for one in copies:
        one["metadata"]["namespace"] = namespace
        for subject in one.get("subjects", []):
            subject["namespace"] = namespace
    return copies


def apply(kubectl: Kubectl, objects: list[dict[str, Any]], *options: str) -> subprocess.CompletedProcess[str]:
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    return kubectl(
        "apply", "--server-side", "--force-conflicts", "--validate=strict", *options, "-f", "-", stdin=listed
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_accepted_with_strict_field_validation(
    overlay: str, kubectl: Kubectl, namespace: str, kinds: set[str]
) -> None:
    objects = moved(kustomized(ROOT / "seldon/overlays" / overlay), namespace)
    known = [one for one in objects if one["kind"] in kinds]
    assert {one["kind"] for one in objects if one["kind"] not in kinds} <= MAY_BE_MISSING
    applied = apply(kubectl, known)
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.count("serverside-applied") == len(known)


@pytest.mark.parametrize(
    ("kind", "path", "field"),
    [
        ("SeldonDeployment", ("spec", "predictors", 0), "trafic"),
        ("SeldonDeployment", ("spec", "predictors", 0, "componentSpecs", 0, "hpaSpec"), "behavior"),
        ("NetworkPolicy", ("spec",), "ingres"),
        ("PodDisruptionBudget", ("spec",), "maxUnavailabel"),
    ],
)
@pytest.mark.usefixtures("kinds")
def test_an_unknown_field_is_refused(
    kind: str, path: tuple[str, ...], field: str, kubectl: Kubectl, namespace: str
) -> None:
    (wrong,) = (one for one in moved(kustomized(ROOT / "seldon/overlays/production"), namespace) if one["kind"] == kind)
    part: Any = wrong
    for step in path:
        part = part[step]
    part[field] = 1
    refused = apply(kubectl, [wrong], "--dry-run=server")
    assert refused.returncode != 0
    assert field in refused.stderr
    assert "not declared in schema" in refused.stderr or "unknown field" in refused.stderr, refused.stderr


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("rule", WEBHOOK)
def test_the_operator_refuses_what_we_refuse_in_the_same_words(rule: str, kubectl: Kubectl, namespace: str) -> None:
    if "seldon" not in kubectl("get", "validatingwebhookconfigurations", "-o", "name").stdout:
        pytest.skip("Seldon Core's webhook is not installed in this cluster")
    operations, _, words = WEBHOOK[rule]
    wrong = jsonpatch.apply_patch(VALID, operations)
    wrong["metadata"]["namespace"] = namespace
    refused = apply(kubectl, [wrong], "--dry-run=server")
    assert refused.returncode != 0
    assert words in refused.stderr


@pytest.fixture(scope="module")
def accounts(kubectl: Kubectl, namespace: str) -> str:
    """Apply accounts and roles alone; return what the promoter's account is called."""
    rbac = {"ServiceAccount", "Role", "RoleBinding"}
    applied = apply(
        kubectl,
        [one for one in moved(kustomized(ROOT / "seldon/overlays/production"), namespace) if one["kind"] in rbac],
    )
    assert applied.returncode == 0, applied.stderr
    return f"system:serviceaccount:{namespace}:churn-promoter"


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("get", f"{SELDON}/churn", "yes"),
        ("patch", f"{SELDON}/churn", "yes"),
        ("get", f"{ISTIO}/churn", "yes"),
        ("patch", f"{ISTIO}/churn", "yes"),
        ("create", "leases.coordination.k8s.io", "yes"),
        ("get", "leases.coordination.k8s.io/churn-rollout", "yes"),
        ("update", "leases.coordination.k8s.io/churn-rollout", "yes"),
        ("create", "events.events.k8s.io", "yes"),
        ("get", f"{SELDON}/another", "no"),
        ("patch", f"{SELDON}/another", "no"),
        ("create", SELDON, "no"),
        ("delete", f"{SELDON}/churn", "no"),
        ("update", f"{SELDON}/churn", "no"),
        ("list", SELDON, "no"),
        ("watch", SELDON, "no"),
        ("delete", f"{ISTIO}/churn", "no"),
        ("update", "leases.coordination.k8s.io/another", "no"),
        ("delete", "leases.coordination.k8s.io/churn-rollout", "no"),
        ("get", "secrets", "no"),
        ("get", "pods", "no"),
        ("create", "pods", "no"),
        ("get", "deployments.apps", "no"),
        ("patch", "deployments.apps", "no"),
        ("create", "rolebindings.rbac.authorization.k8s.io", "no"),
    ],
)
def test_the_promoter_may_only_roll_out(
    verb: str, resource: str, allowed: str, kubectl: Kubectl, namespace: str, accounts: str
) -> None:
    answer = kubectl("auth", "can-i", verb, resource, "--as", accounts, "--namespace", namespace)
    assert answer.stdout.split()[:1] == [allowed], answer.stderr


@pytest.mark.parametrize("namespace_of_others", ["default", "kube-system"])
def test_the_promoter_is_nobody_elsewhere(namespace_of_others: str, kubectl: Kubectl, accounts: str) -> None:
    answer = kubectl("auth", "can-i", "get", f"{SELDON}/churn", "--as", accounts, "--namespace", namespace_of_others)
    assert answer.stdout.split()[:1] == ["no"], answer.stderr


def test_the_server_may_do_nothing(kubectl: Kubectl, namespace: str, accounts: str) -> None:
    server = accounts.replace("churn-promoter", "churn")
    for resource in ("secrets", "pods", SELDON):
        answer = kubectl("auth", "can-i", "get", resource, "--as", server, "--namespace", namespace)
        assert answer.stdout.split()[:1] == ["no"], answer.stderr
