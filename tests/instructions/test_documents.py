"""Every command block of the documents, run as a reader would: in order, in a copy of the repository, without internet.

The Kubernetes API, its operator, Prometheus and the gateway are stand-ins; kubectl, curl, Redis and every command of
the project are real. tests/support/command_blocks.py lists what cannot run, tests/docs counts it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.attempts import attempts
from tests.support.command_blocks import Block, blocks_of, documents
from tests.support.programs import ROOT, eventually, program
from tests.support.serving import World

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(2400)]

# Documents that begin with nothing trained; the others find var/ as `make serve` leaves it.
FROM_NOTHING = {"README.md", "docs/quickstart.md"}
# A rollout in seconds: the documents' rollout.yaml waits for minutes.
QUICK = {
    "step_defaults": {"min_duration_s": 0.2, "max_duration_s": 60, "min_requests": 300},
    "gates": {"warm_up_s": 0.0},
    "bake_s": 0.2,
    "interval_s": 0.2,
    "evidence": "prometheus=http://localhost:9090",
}
# What a verdict on a busy machine may say.
ALLOWED = {"churn-serving load-test": (0, 1), "churn-serving rollout status": (0,)}
# Rolled back, or held: as the documents say, the gates do not promote on a machine that is slow.
NOT_PROMOTED = (1, 3)
# Another distribution installs a package named tests, which would be found before ours.
RUN = """
import runpy, sys, types
sys.modules["tests"] = tests = types.ModuleType("tests")
tests.__path__ = [sys.argv[1]]
runpy.run_module("tests.support.block_runner", run_name="__main__")
"""
# Programs in place of those that cannot work here: tests/image builds and pushes the image.
STAND_INS = {"buildah": 'echo "buildah $*"\n', "docker": "exit 1\n"}


class NotPromotedError(Exception):
    """A rollout was held or rolled back; its output."""


def copy_of_the_repository(directory: Path) -> None:
    """Copy what git knows of, and link the environment: make finds it as new as its locks."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    environment = Path(sys.executable).parents[1]
    (directory / ".venv").mkdir()
    for entry in environment.iterdir():
        if not entry.name.startswith("."):
            (directory / ".venv" / entry.name).symlink_to(entry)
    (directory / ".venv" / ".dev").touch()
    rollout = directory / "seldon" / "rollout.yaml"
    rollout.write_text(yaml.safe_dump(yaml.safe_load(rollout.read_text()) | QUICK))


def prepare(directory: Path, world: World) -> dict[str, str]:
    """Put model and features where `make serve` leaves them; return the environment that names the registry."""
    (directory / "var").mkdir()
    shutil.copytree(world.bundle, directory / "var" / "bundle")
    shutil.copytree(world.stock, directory / "var" / "stock")
    shutil.copy2(world.root / "features.db", directory / "var" / "features.db")
    return {"MLFLOW_TRACKING_URI": world.registry}


def script_of(block: Block, before: list[Block]) -> str:
    """Return the block after what earlier ones set; a Python block goes through the environment's Python."""
    kept = "\n".join(line for one in before for line in one.kept)
    if block.language == "python":
        return f"{kept}\n.venv/bin/python - <<'BLOCK'\n{block.text}\nBLOCK\n"
    return f"{kept}\n{block.text}\n"


def run_document(document: Path, directory: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Run the blocks and return their results; the test fails when one does. Raises NotPromotedError."""
    blocks = blocks_of(document)
    running = [block for block in blocks if block.reason is None]
    stand_ins = directory.parent / "stand-ins"
    stand_ins.mkdir()
    for name, body in STAND_INS.items():
        (stand_ins / name).write_text(f"#!/bin/sh\n{body}")
        (stand_ins / name).chmod(0o755)
    task: dict[str, Any] = {
        "directory": str(directory),
        "cluster": any("kubectl" in block.text for block in running),
        "blocks": [
            {
                "name": str(block),
                "script": script_of(block, blocks[: blocks.index(block)]),
                "ready_url": block.ready_url,
                "allowed": next((codes for call, codes in ALLOWED.items() if call in block.text), (0,)),
            }
            for block in running
        ],
    }
    program("redis-server")
    ended = run_task(task, environment | {"PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}"})
    results: list[dict[str, Any]] = ended["results"]
    for block, task_block in zip(running, task["blocks"], strict=True):
        result = next((one for one in results if one["name"] == str(block)), None)
        assert result is not None, f"{block} did not run, because an earlier one failed: {results[-1]}"
        if "rollout run" in block.text and result["code"] in NOT_PROMOTED:
            raise NotPromotedError(result["output"])
        assert result["code"] in task_block["allowed"], f"{block} ended with {result['code']}:\n{result['output']}"
    assert ended["left"] == []  # who follows a page to its end has nothing running
    return results


def run_task(task: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run a task of tests/support/block_runner.py in a network of its own."""
    command = [program("unshare", package="util-linux"), "--net", "--kill-child"]
    command += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        [*command, sys.executable, "-c", RUN, str(ROOT / "tests")],
        cwd=ROOT, input=json.dumps(task), capture_output=True, text=True, check=False, timeout=1150,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def is_run_elsewhere(document: Path) -> bool:
    """tests/examples runs these pages, command by command, and compares the answers with the models' own."""
    path = document.relative_to(ROOT)
    return path.parts[0] == "examples" or path == Path("docs/your-own-model.md")


@pytest.mark.parametrize(
    "document",
    [one for one in documents() if blocks_of(one) and not is_run_elsewhere(one)],
    ids=lambda one: str(one.relative_to(ROOT)),
)
def test_every_command_block_runs(document: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if all(block.reason for block in blocks_of(document)):
        return  # each is listed in CANNOT_RUN
    if any("kubectl" in block.text for block in blocks_of(document)):
        program("kubectl")
    for number, attempt in enumerate(attempts()):
        directory = tmp_path / str(number) / "clone"
        directory.mkdir(parents=True)
        copy_of_the_repository(directory)
        environment = {}
        if str(document.relative_to(ROOT)) not in FROM_NOTHING:
            environment = prepare(directory, request.getfixturevalue("world"))
        try:
            results = run_document(document, directory, environment)
        except NotPromotedError as error:
            attempt.end(is_met=False, figures=error)
            continue
        attempt.end(is_met=True, figures=None)
        for result in results:
            assert "Traceback" not in result["output"], result["output"]


def test_what_a_block_leaves_running_is_told_and_ended(tmp_path: Path) -> None:
    begun = "until grep -q sleep /proc/$!/comm; do sleep 0.01; done"
    script = f"setsid sleep 1234 > /dev/null 2>&1 < /dev/null &\n{begun}\necho $!"
    block = {"name": "a block", "script": script, "ready_url": None, "allowed": (0,)}
    ended = run_task({"directory": str(tmp_path), "cluster": False, "blocks": [block]}, {})
    (result,) = ended["results"]
    assert ended["left"] == ["sleep 1234"]
    eventually(lambda: not Path("/proc", result["output"].strip()).exists(), what="the system forgets it")
