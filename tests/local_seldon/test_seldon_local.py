"""The command, as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.local_seldon_world import BASE, STUB, is_alive, manifest, predictor
from tests.support.programs import GUARD_S, eventually

ROOT = Path(__file__).parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.integration


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "scripts/seldon_local.py", *arguments, "--state", str(tmp_path / "state")]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=GUARD_S)

    yield run
    run("down", "models/churn")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "churn.yaml"
    found.write_text(yaml.safe_dump(manifest(predictor("v1", 90), predictor("v2", 10))))
    return found


def up(command: Command, file: Path) -> dict[str, Any]:
    done = command("up", str(file), *options(file), "--detach", "--timeout-s", str(GUARD_S), "-o", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def options(file: Path) -> list[str]:
    switches = file.parent / "switches"
    switches.mkdir(exist_ok=True)
    artifacts = [word for version in (1, 2) for word in ("--artifact", f"churn-serving:{version}=/bundles/{version}")]
    return [*artifacts, "--env", f"STUB_SWITCHES={switches}", "--port", "0", "--command", f"{sys.executable} {STUB}"]


def test_up_status_down(command: Command, file: Path) -> None:
    runtime = up(command, file)
    assert httpx.post(f"{runtime['url']}{BASE}/predict", content=b"{}").status_code == 200
    shown = command("status", "models/churn", "-o", "json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["mesh_weights"] == {"v1": 90, "v2": 10}
    assert "90 %" in command("status", str(file)).stdout
    again = command("up", str(file), *options(file))
    assert again.returncode == 4
    assert "models/churn runs already" in again.stderr
    assert command("down", "models/churn").returncode == 0
    pids = [runtime["controller_pid"], *(process["pid"] for process in runtime["processes"])]
    assert len(pids) == 4
    assert not [pid for pid in pids if is_alive(pid)]
    gone = command("down", "models/churn")
    assert gone.returncode == 4
    assert "nothing runs in" in gone.stderr


def test_what_a_killed_controller_leaves_is_ended_and_a_rollouts_changes_are_kept(command: Command, file: Path) -> None:
    from rollout.targets.local import LocalTarget
    from rollout.targets.local_store import LocalStore

    before = up(command, file)
    target = LocalTarget(LocalStore.of(file.parent / "state", "models", "churn"))
    weights = {"v1": 30, "v2": 70}
    target.patch(
        [
            {"op": "add", "path": f"/spec/predictors/{index}/traffic", "value": percent}
            for index, percent in enumerate(weights.values())
        ]
    )
    os.kill(before["controller_pid"], signal.SIGKILL)
    eventually(lambda: not is_alive(before["controller_pid"]))
    up(command, file)
    assert not [process["pid"] for process in before["processes"] if is_alive(process["pid"])]
    assert not Path(before["admin_socket"]).exists()
    assert dict(target.read().mesh_weights) == weights


def test_a_dry_run_shows_the_plan_and_starts_nothing(command: Command, file: Path) -> None:
    done = command("up", str(file), *options(file), "--dry-run", "-o", "json")
    plan = json.loads(done.stdout)
    assert plan["v2"]["replicas"] == 1
    assert plan["v2"]["env"]["MLSERVER_MODEL_URI"] == "/bundles/2"
    assert not (file.parent / "state").exists()


def test_controls_are_checked_added_up_and_forgotten(command: Command, file: Path) -> None:
    assert command("control", "models/churn", "--operator", "dead").returncode == 4  # nothing runs
    up(command, file)
    said = command("control", "models/churn", "--operator", "dead", "--replicas", "v2=3", "-o", "json")
    assert json.loads(said.stdout) == {"operator_alive": False, "replicas": {"v2": 3}, "image_pull_s": {}}
    more = command("control", "models/churn", "--image-pull-s", "v2=0.5", "-o", "json")
    assert json.loads(more.stdout)["replicas"] == {"v2": 3}
    assert json.loads(more.stdout)["image_pull_s"] == {"v2": 0.5}
    eventually(lambda: "the operator is dead" in command("status", str(file)).stdout)
    for wrong in (("--replicas", "v2=0"), ("--operator", "ill"), ("--replicas", "v2")):
        assert command("control", "models/churn", *wrong).returncode == 2
    assert json.loads(command("control", "models/churn", "--reset", "-o", "json").stdout)["operator_alive"]


def test_what_cannot_begin_says_why_and_leaves_nothing(command: Command, file: Path) -> None:
    done = command("up", str(file), "--detach", "--port", "0")
    assert done.returncode == 4
    assert "give `up --artifact churn-serving:1=DIR`" in done.stderr
    assert command("down", "models/churn").returncode == 4
    refused = command("up", str(file), "--artifact", "churn-serving:1")
    assert refused.returncode == 2
    assert "allowed: NAME=VALUE" in refused.stderr
