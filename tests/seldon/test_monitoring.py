"""Rules and dashboard: promtool's unit tests, and every metric and label is one that somebody exports."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from handoff.quality.drift import Drift
from handoff.quality.results import Measure, Period, Quality, VersionQuality
from rollout.manifest.rendering import kustomized
from tests.support.programs import GUARD_S

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "seldon/monitoring"
DASHBOARD = json.loads((MONITORING / "churn.json").read_text())
CASES = [Path(__file__).with_name(name) for name in ("rules_test.yaml", "daily_rules_test.yaml")]

# Names and labels of kube-state-metrics 2, and of the promoter.
ELSEWHERE = {
    "kube_deployment_status_replicas_available": {"namespace", "deployment"},
    "kube_horizontalpodautoscaler_status_current_replicas": {"namespace", "horizontalpodautoscaler"},
    "kube_horizontalpodautoscaler_status_desired_replicas": {"namespace", "horizontalpodautoscaler"},
    "kube_horizontalpodautoscaler_spec_max_replicas": {"namespace", "horizontalpodautoscaler"},
    "kube_pod_container_status_waiting_reason": {"namespace", "pod", "container", "reason"},
    "kube_cronjob_info": {"namespace", "cronjob"},
    "serving_rollout_phase": {"namespace", "deployment", "phase"},
}
# What `churn-serving quality` pushes; a Pushgateway adds no labels of a pod.
PUSHED = {"serving_quality", "serving_quality_drift", "serving_quality_timestamp_seconds"}
TARGET_LABELS = {"namespace", "pod", "container", "job", "instance"}  # what the PodMonitor adds
WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
LABEL_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
IDENTIFIER = re.compile(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?!\w*\s*\()")


def groups() -> list[dict[str, Any]]:
    return yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]["groups"]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for group in groups():
        yield from (rule["expr"] for rule in group["rules"])
    yield from dashboard_expressions()


def dashboard_expressions() -> Iterator[str]:
    for panel in panels():
        yield from (plain(target["expr"]) for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"]["query"])
            assert query is not None
            yield plain(query.group(1))
    yield from (plain(annotation["expr"]) for annotation in DASHBOARD["annotations"]["list"])


def plain(expression: str) -> str:
    """Put values where Grafana puts them."""
    return expression.replace("$__rate_interval", "5m").replace("$", "")


def metric_names(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", LABEL_LISTS.sub("", bare))
    return {name for name in IDENTIFIER.findall(bare) if name.lower() not in WORDS}


@cache
def exported() -> dict[str, set[str]]:
    """Return the labels of every sample that a loaded model exports, as /metrics has them."""
    from prometheus_client import REGISTRY

    from custom_runtime.grpc.port import CallCounts
    from custom_runtime.metrics import ServingMetrics
    from handoff.quality.exposition import registry_of

    metrics = ServingMetrics(model="churn", version="1", predictor="v1", store="memory")
    metrics.count_rows("hit", 1)
    metrics.observe_scores([0.5])
    metrics.count_records("written", 1)
    metrics.set_record_spool(1, 2)
    CallCounts(predictor="v1")
    names: dict[str, set[str]] = {}
    for family in (*REGISTRY.collect(), *registry_of(measured()).collect()):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def measured() -> Quality:
    """Return a quality check with one value of everything."""
    value = Measure(value=0.8, low=0.7, high=0.9)
    when = datetime(2026, 11, 1, tzinfo=UTC)
    period = Period(version="1", begin=when, end=when, labels=40, positives=10, measures={"auc": value})
    drift = Drift(name="score", rows=40, psi=0.1, effect=0.1, moved="mean", missing=0.0, verdict="watch")
    return Quality(
        model="churn", task="binary", contract="c", made=when, joined_by="request id",
        labels=40, unmatched=0, superseded=0, predictions=40,
        versions=(VersionQuality(version="1", predictions=40, overall=period, periods=()),),
        challenges=(), drift={"1": (drift,)}, drift_note="", freshness=(), failing=(), failing_note="",
    )  # fmt: skip


def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for group in groups() for rule in group["rules"] if "record" in rule}


def run_promtool(require: Any, directory: Path, *arguments: str) -> None:
    promtool = require("promtool", "apt-get install prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=directory, capture_output=True, text=True, timeout=GUARD_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_the_rules_pass_their_unit_tests(cases: Path, tmp_path: Path, require: Callable[[str, str], str]) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    (tmp_path / "test.yaml").write_bytes(cases.read_bytes())
    run_promtool(require, tmp_path, "test", "rules", "test.yaml")


def test_every_alert_has_a_unit_test_a_severity_and_a_page_to_read() -> None:
    tested = {
        case["alertname"]
        for cases in CASES
        for test in yaml.safe_load(cases.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    alerts = [rule for group in groups() for rule in group["rules"] if "alert" in rule]
    assert {alert["alert"] for alert in alerts} == tested
    for alert in alerts:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["runbook_url"] == f"runbook#{alert['alert'].lower()}"


def rules_of(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        rule
        for one in objects
        if one["kind"] == "PrometheusRule"
        for group in one["spec"]["groups"]
        for rule in group["rules"]
    ]


@pytest.mark.parametrize("folder", ["monitoring", "controller", "overlays/kind-monitoring"])
def test_the_address_of_the_runbook_is_said_in_one_file(
    folder: str, tmp_path: Path, built: Callable[[str], tuple[dict[str, Any], ...]]
) -> None:
    (said,) = re.findall(
        r"^RUNBOOK_URL=(https://\S+)$", (ROOT / "seldon/runbook/runbook.env").read_text(), re.MULTILINE
    )
    assert not [one for one in built(folder) if one["metadata"]["name"] == "runbook"]  # it is no object of the cluster
    copy = tmp_path / "seldon"
    shutil.copytree(ROOT / "seldon", copy)
    (copy / "runbook/runbook.env").write_text("RUNBOOK_URL=https://wiki.example/models/runbook\n")
    plain, moved = rules_of(built(folder)), rules_of(kustomized(copy / folder))
    for rule, other in zip(plain, moved, strict=True):
        if "alert" not in rule:
            assert rule == other
            continue
        anchor = f"#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == said + anchor
        assert other["annotations"]["runbook_url"] == f"https://wiki.example/models/runbook{anchor}"


def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path, require: Callable[[str, str], str]) -> None:
    rules = [{"record": f"panel:{index}", "expr": expr} for index, expr in enumerate(dashboard_expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run_promtool(require, tmp_path, "check", "rules", "rules.yaml")


def test_every_metric_in_rules_and_dashboard_is_exported_by_somebody() -> None:
    known = set(exported()) | set(recorded()) | set(ELSEWHERE)
    used = set().union(*(metric_names(expression) for expression in expressions()))
    assert used - known == set()
    assert len(used) > 15


def test_every_label_that_is_matched_is_on_its_metric() -> None:
    for expression in expressions():
        for metric, matchers in SELECTOR.findall(expression):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))
            if metric in recorded():
                has = {
                    label
                    for clause in re.findall(r"by \(([^)]*)\)", recorded()[metric])
                    for label in clause.split(", ")
                }
                has |= {"namespace", "model", "version", "predictor"}  # a ratio keeps its parts' labels
            else:
                has = ELSEWHERE.get(metric) or exported()[metric] | (set() if metric in PUSHED else TARGET_LABELS)
            assert labels <= has, f"{metric}: {labels - has}"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (a, b) (rate(x_total{c=~"y"}[5m])) / on (a) group_left () z:w', {"x_total", "z:w"}),
        ("histogram_quantile(0.99, sum by (le) (rate(x_bucket[5m]))) > 0.05 and y > 1e3", {"x_bucket", "y"}),
    ],
)
def test_metric_names_are_found_in_promql(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names


def test_a_bucket_that_is_asked_for_is_an_edge_of_the_histogram() -> None:
    from custom_runtime.metrics import REQUEST_EDGES_S

    asked = {edge for expression in expressions() for edge in re.findall(r'le="([\d.]+)"', expression)}
    assert asked == {"0.05"}
    assert asked <= {str(edge) for edge in REQUEST_EDGES_S}


def test_the_dashboard_shows_what_a_rollout_is_watched_by() -> None:
    titles = {panel["title"] for panel in panels()}
    assert titles >= {"Traffic share", "P50", "P99", "Failed requests", "Feature rows by outcome", "Autoscaler"}
    (scores,) = (panel for panel in panels() if "serving_score_bucket" in panel["targets"][0]["expr"])
    assert scores["repeat"] == "predictor"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_pod_monitor_scrapes_the_port_and_path_that_the_pods_have(
    built: Callable[[str], tuple[dict[str, Any], ...]], deployment: Callable[[str], dict[str, Any]]
) -> None:
    (monitor,) = (one for one in built("monitoring") if one["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    container = deployment("production")["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/prometheus")
    assert endpoint["port"] in ports
    assert monitor["spec"]["selector"] == {"matchLabels": {"seldon-deployment-id": "churn"}}


def test_the_dashboard_is_shipped_as_grafanas_sidecar_wants_it(
    built: Callable[[str], tuple[dict[str, Any], ...]],
) -> None:
    (shipped,) = (one for one in built("monitoring") if one["kind"] == "ConfigMap")
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shipped["data"]["churn.json"]) == DASHBOARD


def test_the_rollouts_metric_and_its_phases_are_the_promoters() -> None:
    from rollout.engine.state import Phase
    from rollout.reporting.metrics import Metrics

    exposed = {family.name for family in Metrics().registry.collect()}
    asked = {
        name for expression in expressions() for name in metric_names(expression) if name.startswith("serving_rollout")
    }
    assert asked == {"serving_rollout_phase"}
    assert asked <= exposed
    phases = {phase for expression in expressions() for phase in re.findall(r'phase="(\w+)"', expression)}
    assert phases == {"Held"}
    assert phases <= {phase.value for phase in Phase}
