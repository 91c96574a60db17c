"""The manifests use what the tested versions serve; runbook, e2e workflow and manifests name the same versions."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout.targets.kubernetes import ISTIO, SELDON

ROOT = Path(__file__).parents[2]
DIRECTORIES = ("overlays/kind", "overlays/production", "overlays/canary", "overlays/shadow", "monitoring", "controller")

# What the CRDs of each version serve: kubernetes/customresourcedefinitions.gen.yaml of istio/api, and
# example/prometheus-operator-crd of prometheus-operator/prometheus-operator, at the tag of the version.
ISTIO_SERVED = {"1.20.8": {"v1alpha3", "v1beta1"}, "1.22.0": {"v1alpha3", "v1beta1", "v1"}}
POD_MONITOR_PORT_FIELDS = {"0.77.2": {"port", "targetPort"}, "0.79.0": {"port", "portNumber", "targetPort"}}
STACK_OPERATOR = {"65.8.1": "0.77.2"}
# Kubernetes 1.27 serves these and no beta of them is needed; unhealthyPodEvictionPolicy is on by default since 1.27.
KUBERNETES_SERVED = {
    "1.27.17": {
        "v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1", "autoscaling/v2",
        "events.k8s.io/v1", "coordination.k8s.io/v1",
    }
}  # fmt: skip

Built = Callable[[str], tuple[dict[str, Any], ...]]


@pytest.fixture(scope="module")
def row() -> dict[str, str]:
    """Return the runbook's row of versions."""
    text = (ROOT / "docs/runbook.md").read_text()
    cells = re.search(r"\| Kubernetes \| Istio \|[^\n]*\n\|[-|]+\n\|(.+)\|\n\n", text)
    assert cells is not None, "the runbook must have exactly one row of versions"
    kubernetes, istio, prometheus, seldon = (cell.strip() for cell in cells[1].split("|"))
    operator, stack = re.fullmatch(r"(\S+) \((\S+)\)", prometheus).groups()  # type: ignore[union-attr]
    return {"kubernetes": kubernetes, "istio": istio, "operator": operator, "stack": stack, "seldon": seldon}


def test_the_row_is_what_kind_up_installs_and_the_e2e_workflow_calls_it(row: dict[str, str]) -> None:
    pins = dict(re.findall(r"^(\w+)=(\S+)$", (ROOT / "seldon/kind/versions.sh").read_text(), re.MULTILINE))
    steps = yaml.safe_load((ROOT / ".github/workflows/e2e.yml").read_text())["jobs"]["canary"]["steps"]
    assert "make kind-up" in [step.get("run") for step in steps]
    assert pins["KUBERNETES_VERSION"] == f"v{row['kubernetes']}"
    assert pins["ISTIO_VERSION"] == row["istio"]
    assert pins["SELDON_VERSION"] == row["seldon"]
    assert pins["PROMETHEUS_STACK_VERSION"] == row["stack"]
    assert STACK_OPERATOR[row["stack"]] == row["operator"]


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_api_version_is_served(directory: str, built: Built, row: dict[str, str]) -> None:
    served = KUBERNETES_SERVED[row["kubernetes"]] | {"monitoring.coreos.com/v1", f"{SELDON['group']}/v1"}
    served |= {f"networking.istio.io/{version}" for version in ISTIO_SERVED[row["istio"]]}
    assert {one["apiVersion"] for one in built(directory)} <= served


def test_the_promoter_and_the_gateways_speak_a_version_that_istio_serves(row: dict[str, str], built: Built) -> None:
    assert ISTIO["version"] in ISTIO_SERVED[row["istio"]]
    (gateway,) = (one for one in built("overlays/production") if one["kind"] == "Gateway")
    assert gateway["apiVersion"] == f"{ISTIO['group']}/{ISTIO['version']}"


def test_the_pod_monitor_has_only_fields_of_the_operators_definition(row: dict[str, str], built: Built) -> None:
    (monitor,) = (one for one in built("monitoring") if one["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert set(endpoint) <= POD_MONITOR_PORT_FIELDS[row["operator"]] | {"path", "interval", "scrapeTimeout"}


def test_seldons_definition_has_no_node_taints_policy(
    built: Built, crd_errors: Callable[[dict[str, Any]], list[str]], row: dict[str, str]
) -> None:
    assert row["seldon"] == "1.17.1", "look whether this version has it; then set nodeTaintsPolicy: Honor in the base"
    (deployment,) = (one for one in built("overlays/production") if one["kind"] == "SeldonDeployment")
    copy = yaml.safe_load(yaml.safe_dump(deployment))
    (constraint,) = copy["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["topologySpreadConstraints"]
    constraint["nodeTaintsPolicy"] = "Honor"
    assert ["'nodeTaintsPolicy' was unexpected" in error for error in crd_errors(copy)] == [True]
