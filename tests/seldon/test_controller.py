"""The manifests of the controller: its rights, its arguments, its image, and its alerts."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from rollout.cli.controller import controller
from rollout.controller.metrics import RolloutCollector
from rollout.controller.overview import Overview
from rollout.targets.kubernetes_lease import CONTROLLER
from tests.docs.test_architecture import imported_modules
from tests.seldon.test_monitoring import metric_names, run_promtool
from tests.support.rollout_world import FakeClock

ROOT = Path(__file__).parents[2]
RULES = ROOT / "seldon/controller/prometheusrule.yaml"
CASES = Path(__file__).with_name("controller_rules_test.yaml")
NOT_BUILT_IN = {"PodMonitor", "PrometheusRule"}

Built = Callable[[str], tuple[dict[str, Any], ...]]


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return found


def one_of(built: Built, kind: str) -> dict[str, Any]:
    (found,) = (one for one in built("controller") if one["kind"] == kind)
    return found


def test_the_objects_have_only_fields_of_their_kind(
    built: Built, unknown_fields: Callable[[dict[str, Any]], list[str]]
) -> None:
    checked = [one for one in built("controller") if one["kind"] not in NOT_BUILT_IN]
    assert len(checked) >= 7
    assert [field for one in checked for field in unknown_fields(one)] == []


def test_the_controller_has_the_promoters_rights_and_the_watch(built: Built) -> None:
    def granted(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
        return {
            (group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }

    (promoter,) = (one for one in built("overlays/production") if one["kind"] == "Role")
    seldon = "machinelearning.seldon.io"
    watch = {(seldon, "seldondeployments", "list"), (seldon, "seldondeployments", "watch")}
    assert granted(one_of(built, "ClusterRole")["rules"]) == granted(promoter["rules"]) | watch
    names = {name for rule in promoter["rules"] for name in rule.get("resourceNames", ())}
    assert CONTROLLER in names


def test_the_arguments_are_options_of_the_command_and_the_ports_agree(built: Built) -> None:
    pod = one_of(built, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    known = {name.replace("_", "-") for name in inspect.signature(controller).parameters}
    assert set(given) <= known
    (port,) = container["ports"]
    assert int(given["port"]) == port["containerPort"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {given["log"], str(Path(given["page-token"]).parent)} <= mounts
    (endpoint,) = one_of(built, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    labels = one_of(built, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one_of(built, "PodMonitor")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert one_of(built, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_pod_is_locked_down_and_never_two(built: Built) -> None:
    deployment = one_of(built, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_rules_pass_their_unit_tests(tmp_path: Path, require: Callable[[str, str], str]) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    (tmp_path / "test.yaml").write_bytes(CASES.read_bytes())
    run_promtool(require, tmp_path, "test", "rules", "test.yaml")


def test_every_alert_has_a_unit_test_that_fires_and_a_section_in_the_runbook() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test.get("alert_rule_test", ())]
    alerts = [rule for group in groups() for rule in group["rules"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == {alert["alert"] for alert in alerts}
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    for alert in alerts:
        assert alert["alert"] in headings
        assert alert["annotations"]["runbook_url"] == f"runbook#{alert['alert'].lower()}"


def test_every_metric_of_the_rules_is_exported_by_the_controller() -> None:
    from rollout.reporting.metrics import Metrics

    registry = CollectorRegistry()
    registry.register(RolloutCollector(Overview(FakeClock(), "one")))
    exported = {family.name for family in (*registry.collect(), *Metrics().registry.collect())}
    asked = {name for group in groups() for rule in group["rules"] for name in metric_names(rule["expr"])}
    source = (ROOT / "rollout/cli/controlling.py").read_text()
    assert {name for name in asked - exported if f'"{name}"' not in source} == set()
    assert {"serving_rollout_under_way", "serving_rollout_driver_seen_seconds"} <= asked


def test_the_images_lock_has_every_package_that_the_controller_imports() -> None:
    """Whatever this project's own modules import that are loaded up to the start of the watch."""
    program = (
        "import json, sys, rollout.cli.controller, rollout.cli.controlling, commands.main;"
        "print(json.dumps([[*sys.stdlib_module_names], [module.__file__ for name, module in sys.modules.items()"
        " if name.partition('.')[0] in ('rollout', 'commands') and module.__file__]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    standard, files = json.loads(done.stdout)
    modules = {name.partition(".")[0] for file in files for name in imported_modules(Path(file))}
    owners = packages_distributions()
    packages = {owners[module][0] for module in modules - {"rollout", "commands", *standard}}
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in packages}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/controller.txt").read_text(), re.MULTILINE))
    assert {"kopf", "kubernetes", "aiohttp", "jinja2"} <= wanted
    assert wanted <= locked


@pytest.mark.parametrize("folder", ["rollout", "commands"])
def test_the_build_context_has_what_the_controllers_image_copies(folder: str) -> None:
    assert f"COPY {folder} /opt/serving/{folder}" in (ROOT / "Dockerfile").read_text()
    assert f"!{folder}" in (ROOT / ".dockerignore").read_text().splitlines()
