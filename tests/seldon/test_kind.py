"""make kind-up and kind-down, as far as they go without docker: DRY_RUN=1 prints every command and runs none."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import unknown_options
from tests.support.programs import GUARD_S, ROOT

COMMAND = re.compile(r"^\+ (.*)$", re.MULTILINE)


def printed(script: str, tmp_path: Path) -> list[list[str]]:
    """The commands of a dry run, in a PATH without docker, kind, kubectl and helm."""
    done = subprocess.run(
        ["bash", str(ROOT / "seldon" / "kind" / script)],
        env={"DRY_RUN": "1", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [shlex.split(command) for command in COMMAND.findall(done.stdout)]


def test_kind_up_installs_the_pinned_versions_then_deploys_then_loads_then_waits(tmp_path: Path) -> None:
    commands = [" ".join(command) for command in printed("up.sh", tmp_path)]
    marks = [
        "make image IMAGE=churn-serving:1",
        "make image IMAGE=churn-serving:2",
        "kind create cluster",
        "kind load docker-image",
        "istiod",
        "kube-prometheus-stack",
        "seldon-core-operator",
        "--kustomize seldon/overlays/kind",
        "--kustomize seldon/overlays/kind-monitoring",
        "features load",
        "wait seldondeployment/churn",
    ]
    places = [next(place for place, command in enumerate(commands) if mark in command) for mark in marks]
    assert places == sorted(places)
    pins = dict(re.findall(r"^(\w+_VERSION)=(\S+)$", (ROOT / "seldon/kind/versions.sh").read_text(), re.MULTILINE))
    assert all(any(version in command for command in commands) for version in pins.values())


def test_its_commands_exist_and_its_kustomizations_build(
    tmp_path: Path, built: Callable[[str], tuple[dict[str, Any], ...]]
) -> None:
    commands = printed("up.sh", tmp_path)
    ours = [command[1:] for command in commands if command[0].endswith("churn-serving")]
    assert len(ours) == 5
    assert [unknown_options(*command) for command in ours] == [[]] * 5
    applied = [command[-1] for command in commands if "--kustomize" in command]
    for directory in applied:
        objects = built(directory.removeprefix("seldon/"))
        assert {one["metadata"]["namespace"] for one in objects if one["kind"] != "Namespace"} == {"churn-kind"}


def test_kind_down_deletes_the_cluster_that_kind_up_made(tmp_path: Path) -> None:
    (deleted,) = printed("down.sh", tmp_path)
    (created,) = [command for command in printed("up.sh", tmp_path) if command[:3] == ["kind", "create", "cluster"]]
    assert deleted[-1] == created[created.index("--name") + 1]


@pytest.mark.parametrize("script", ["up.sh", "down.sh", "versions.sh"])
def test_the_scripts_parse(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(ROOT / "seldon" / "kind" / script)], check=False).returncode == 0


def test_kind_up_says_what_is_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "seldon" / "kind" / "up.sh")],
        env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: not installed: " in done.stderr
    assert "kind" in done.stderr
