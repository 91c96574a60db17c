"""Every overlay builds, passes the schemas with unknown fields refused, and keeps the promises of the design."""

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_runtime.grpc.port import AGE_SPREAD, GOAWAY_WAIT_S
from custom_runtime.settings import ServingSettings
from rollout.errors import ManifestError
from rollout.manifest.capacity import Capacity, read_capacity
from rollout.manifest.parsing import parse, to_dict
from rollout.manifest.seldon import SeldonDeployment
from rollout.manifest.service_checks import find_problems

ROOT = Path(__file__).parents[2]
OVERLAYS = ("kind", "production", "canary", "shadow", "graph", "records")
# Kinds of other projects, whose schemas are not at hand: only a cluster (tests/cluster) checks their fields.
ELSEWHERE = {"Gateway"}


def of_kind(objects: tuple[dict[str, Any], ...], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_seldon_deployment_passes_the_crd_and_the_rules(
    overlay: str, deployment: Callable[[str], dict[str, Any]], crd_errors: Callable[[dict[str, Any]], list[str]]
) -> None:
    assert crd_errors(deployment(overlay)) == []
    assert [str(problem) for problem in find_problems(deployment(overlay))] == []
    assert to_dict(parse(deployment(overlay))) == deployment(overlay)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ((), "spec2"),
        (("spec", "predictors", 0), "trafic"),
        (("spec", "predictors", 0, "componentSpecs", 0, "hpaSpec"), "behavior"),
        (("spec", "predictors", 0, "componentSpecs", 0, "spec", "containers", 0), "startUpProbe"),
    ],
)
def test_the_crd_check_refuses_unknown_fields(
    path: tuple[str, ...],
    field: str,
    deployment: Callable[[str], dict[str, Any]],
    crd_errors: Callable[[dict[str, Any]], list[str]],
) -> None:
    wrong = to_dict(parse(deployment("production")))
    part: Any = wrong
    for step in path:
        part = part[step]
    part[field] = {}
    assert any(f"'{field}' was unexpected" in error for error in crd_errors(wrong))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_other_objects_have_only_fields_of_their_kind(
    overlay: str,
    built: Callable[[str], tuple[dict[str, Any], ...]],
    unknown_fields: Callable[[dict[str, Any]], list[str]],
) -> None:
    checked = [one for one in built(f"overlays/{overlay}") if one["kind"] not in {"SeldonDeployment", *ELSEWHERE}]
    assert len(checked) >= 7
    assert [field for one in checked for field in unknown_fields(one)] == []


def test_the_field_check_refuses_unknown_fields(unknown_fields: Callable[[dict[str, Any]], list[str]]) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"ingress": [{"form": []}]}}
    assert unknown_fields(policy) == ["NetworkPolicy.spec.ingress[0].form"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_in_the_overlays_own_namespace(
    overlay: str, built: Callable[[str], tuple[dict[str, Any], ...]]
) -> None:
    objects = built(f"overlays/{overlay}")
    (namespace,) = (one["metadata"]["name"] for one in of_kind(objects, "Namespace"))
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"} == {namespace}
    (binding,) = of_kind(objects, "RoleBinding")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "churn-promoter", "namespace": namespace}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_locked_down(overlay: str, deployment: Callable[[str], dict[str, Any]]) -> None:
    for predictor in parse(deployment(overlay)).predictors:
        pod = to_dict(predictor)["componentSpecs"][0]["spec"]
        container = pod["containers"][0]
        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 1000)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == ["tmp"]
        (store,) = (one for one in container["env"] if one["name"] == "SERVING_FEATURE_STORE")
        assert store["valueFrom"] == {"secretKeyRef": {"name": "churn-feature-store", "key": "url"}}


def test_the_pod_outlives_pre_stop_drain_and_the_longest_request(deployment: Callable[[str], dict[str, Any]]) -> None:
    pod = parse(deployment("production")).stable.component_specs[0].spec
    (container,) = to_dict(parse(deployment("production")).stable)["componentSpecs"][0]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    pre_stop_s = float(container["lifecycle"]["preStop"]["exec"]["command"][-1].rpartition(" ")[2])  # "/bin/sleep 10"
    see_off_s = ServingSettings.model_fields["grpc_connection_age_s"].default * AGE_SPREAD + GOAWAY_WAIT_S
    deadline_s = float(env["SERVING_DEADLINE_MS"]) / 1000
    longest_s = pre_stop_s + float(env["SERVING_DRAIN_DELAY_S"]) + see_off_s + deadline_s
    assert pod.termination_grace_period_seconds is not None
    assert pod.termination_grace_period_seconds >= longest_s + 5


def test_every_serving_setting_is_one_that_the_server_reads(deployment: Callable[[str], dict[str, Any]]) -> None:
    known = {f"SERVING_{name.upper()}" for name in ServingSettings.model_fields}
    container = parse(deployment("production")).stable.model_container
    assert {variable.name for variable in container.env} <= known
    assert len(container.env) >= 3


def test_the_canary_takes_a_tenth_and_differs_only_in_name_image_and_traffic(
    deployment: Callable[[str], dict[str, Any]],
) -> None:
    canary: SeldonDeployment = parse(deployment("canary"))
    assert canary.traffic() == {"v1": 90, "v2": 10}
    copied = canary.stable.for_version("v2", image="churn-serving:2", traffic=10)
    assert to_dict(copied) == to_dict(canary.predictor("v2"))


def test_the_shadow_answers_nobody(deployment: Callable[[str], dict[str, Any]]) -> None:
    shadow = parse(deployment("shadow"))
    assert (shadow.traffic(), shadow.predictor("v2").shadow) == ({"v1": 100}, True)
    copied = shadow.stable.for_version("v2", image="churn-serving:2", traffic=100).but(shadow=True)
    assert to_dict(copied) == to_dict(shadow.predictor("v2"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_disruption_budget_covers_all_predictors(
    overlay: str, built: Callable[[str], tuple[dict[str, Any], ...]], deployment: Callable[[str], dict[str, Any]]
) -> None:
    (budget,) = of_kind(built(f"overlays/{overlay}"), "PodDisruptionBudget")
    assert budget["spec"]["selector"] == {"matchLabels": {"seldon-deployment-id": parse(deployment(overlay)).name}}
    assert all(
        component.pdb_spec is None for one in parse(deployment(overlay)).predictors for component in one.component_specs
    )


def test_the_network_lets_in_callers_and_prometheus_and_out_to_redis_and_dns(
    built: Callable[[str], tuple[dict[str, Any], ...]],
) -> None:
    (policy,) = of_kind(built("overlays/production"), "NetworkPolicy")
    spec = policy["spec"]
    assert spec["podSelector"] == {"matchLabels": {"seldon-deployment-id": "churn"}}
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    ports = [sorted(str(port["port"]) for port in rule["ports"]) for rule in (*spec["ingress"], *spec["egress"])]
    assert ports == [["grpc", "http"], ["metrics"], ["6379"], ["53", "53"], ["6378", "6379", "6380"]]
    peers = [peer for rule in spec["ingress"] for peer in rule["from"]]
    assert all(set(peer) == {"namespaceSelector", "podSelector"} for peer in peers)
    _, dns, managed = spec["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in dns["to"]  # NodeLocal DNSCache
    assert [ip_network(peer["ipBlock"]["cidr"]).is_private for peer in managed["to"]] == [True, True, True]


def test_the_image_can_come_from_a_private_registry(built: Callable[[str], tuple[dict[str, Any], ...]]) -> None:
    accounts = {one["metadata"]["name"]: one for one in of_kind(built("overlays/production"), "ServiceAccount")}
    assert accounts["churn"]["imagePullSecrets"] == [{"name": "churn-registry"}]
    assert "imagePullSecrets" not in accounts["churn-promoter"]


def test_the_promoter_may_do_what_a_rollout_needs_and_no_more(
    built: Callable[[str], tuple[dict[str, Any], ...]],
) -> None:
    (role,) = of_kind(built("overlays/production"), "Role")
    granted = {
        (resource, verb): rule.get("resourceNames")
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        ("seldondeployments", "get"): ["churn"],
        ("seldondeployments", "patch"): ["churn"],
        ("virtualservices", "get"): ["churn"],
        ("virtualservices", "patch"): ["churn"],
        ("destinationrules", "delete"): None,
        ("deployments", "get"): None,
        ("pods", "list"): None,
        ("leases", "create"): None,
        ("leases", "get"): ["churn-rollout", "rollout-controller"],
        ("leases", "update"): ["churn-rollout"],
        ("events", "create"): None,
    }


def test_the_gateway_that_the_deployment_names_is_in_the_overlay(
    built: Callable[[str], tuple[dict[str, Any], ...]], deployment: Callable[[str], dict[str, Any]]
) -> None:
    for overlay in OVERLAYS:
        (gateway,) = of_kind(built(f"overlays/{overlay}"), "Gateway")
        assert parse(deployment(overlay)).spec.annotations["seldon.io/istio-gateway"] == gateway["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["production", "canary", "shadow"])
def test_the_autoscalers_numbers_are_the_derived_ones(
    overlay: str, deployment: Callable[[str], dict[str, Any]]
) -> None:
    derived = read_capacity(ROOT / "seldon/capacity.yaml")
    for predictor in parse(deployment(overlay)).predictors:
        hpa = predictor.component_specs[0].hpa_spec
        assert hpa is not None
        assert (hpa.min_replicas, hpa.max_replicas) == (derived.min_replicas, derived.max_replicas)
        (metric,) = hpa.metricsv2
        assert metric["resource"]["target"]["averageUtilization"] == derived.target_utilisation_percent


def test_the_capacity_page_shows_the_derived_numbers() -> None:
    derived = read_capacity(ROOT / "seldon/capacity.yaml")
    page = (ROOT / "docs/capacity.md").read_text()
    assert f"| usable per pod | {derived.usable_rps:,.0f} requests/s |" in page
    assert f"| `minReplicas` | {derived.min_replicas} |" in page
    assert f"| `maxReplicas` | {derived.max_replicas} |" in page


CAPACITY = Capacity(
    slo_capacity_rps=1000,
    measured="here",
    deratings={"none": 1.0},
    target_utilisation_percent=50,
    required_rps=1000,
    peak_factor=3,
    nodes=3,
    nodes_lost=1,
)


@pytest.mark.parametrize(
    ("load_rps", "nodes", "nodes_lost", "pods"),
    [
        (1000, 3, 1, 3),  # 2 are needed: one on each node, two are left
        (3000, 3, 1, 9),  # 6 are needed: 8 (3, 3, 2) would leave 5
        (1, 2, 1, 2),
        (1000, 3, 0, 2),
        (1000, 3, 2, 6),  # 5 (2, 2, 1) would leave 1
    ],
)
def test_the_fewest_pods_that_hold_the_load_after_losing_nodes(
    load_rps: float, nodes: int, nodes_lost: int, pods: int
) -> None:
    capacity = CAPACITY.model_copy(update={"nodes": nodes, "nodes_lost": nodes_lost})
    assert capacity.pods(load_rps) == pods


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(2, 7), st.data())
def test_the_pods_left_hold_the_load_and_one_pod_fewer_would_not(
    load_rps: int, nodes: int, data: st.DataObject
) -> None:
    nodes_lost = data.draw(st.integers(0, nodes - 1))
    capacity = CAPACITY.model_copy(update={"nodes": nodes, "nodes_lost": nodes_lost})
    pods = capacity.pods(load_rps)

    def left(pods: int) -> int:
        on_node = sorted((len(range(index, pods, nodes)) for index in range(nodes)), reverse=True)
        return sum(on_node[nodes_lost:])

    assert left(pods) * capacity.usable_rps >= load_rps
    assert left(pods - 1) * capacity.usable_rps < load_rps


def test_capacity_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "capacity.yaml"
    text = (ROOT / "seldon/capacity.yaml").read_text()
    file.write_text(text.replace("nodes_lost: 1", "nodes_lost: 3"))
    with pytest.raises(ManifestError, match=r"nodes_lost is 3; allowed: less than nodes \(3\)"):
        read_capacity(file)
    file.write_text(text + "pods: 3\n")
    with pytest.raises(ManifestError, match="pods"):
        read_capacity(file)


def test_the_base_is_the_only_copy_of_the_deployment() -> None:
    written = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "seldon").rglob("*.yaml"))
        if "\nkind: SeldonDeployment" in path.read_text() and path.parent.name != "seldon-protocol"
    ]
    assert written == ["seldon/base/seldondeployment.yaml"]
