"""The overlay of Seldon's own protocol: what the wrapper answers, and what production says of everything else."""

from collections.abc import Callable
from typing import Any

from rollout.manifest.service_checks import find_problems


def container(deployment: Any) -> Any:
    return deployment["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]


def test_overlay_is_accepted_by_the_operators_rules_and_the_crd(
    deployment: Callable[[str], dict[str, Any]], crd_errors: Callable[[dict[str, Any]], list[str]]
) -> None:
    built = deployment("seldon-protocol")
    assert find_problems(built) == ()
    assert crd_errors(built) == []


def test_overlay_runs_the_component_and_probes_what_it_answers(deployment: Callable[[str], dict[str, Any]]) -> None:
    ours = container(deployment("seldon-protocol"))
    assert ours["command"][:2] == ["seldon-core-microservice", "custom_runtime.seldon_component.TabularComponent"]
    assert ours["readinessProbe"]["httpGet"] == {"path": "/health/status", "port": "http"}
    assert ours["livenessProbe"]["httpGet"] == {"path": "/health/ping", "port": "http"}


def test_overlay_differs_from_production_in_nothing_else(deployment: Callable[[str], dict[str, Any]]) -> None:
    ours, theirs = deployment("seldon-protocol"), deployment("production")
    assert (ours["spec"]["protocol"], theirs["spec"]["protocol"]) == ("seldon", "v2")
    changed = {"image", "command", "env", "startupProbe", "readinessProbe", "livenessProbe"}
    for built in (ours, theirs):
        built["spec"]["protocol"] = ""
        for name in changed:
            container(built).pop(name, None)
    assert ours == theirs
