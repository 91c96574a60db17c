"""The CronJob that measures quality: its fields, its arguments, its mounts, and what its image needs."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.records.record import SCHEMA
from handoff.quality.command import quality

ROOT = Path(__file__).parents[2]
Built = Callable[[str], tuple[dict[str, Any], ...]]
OWN = ("handoff", "custom_runtime", "commands")
# Runs the command as in the image: a package that the lock does not name cannot be imported.
PROGRAM = """
import json, re, sys
from importlib.metadata import packages_distributions
from pathlib import Path

lock, *words = sys.argv[1:]
locked = set(re.findall(r"^([a-z0-9-]+)==", Path(lock).read_text(), re.MULTILINE))
owners = {
    module: {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    for module, names in packages_distributions().items()
    if "churn-serving" not in names  # the project itself
}

class Lock:
    def find_spec(self, name, path=None, target=None):
        module = name.partition(".")[0]
        if module in owners and not owners[module] & locked:
            raise ModuleNotFoundError(f"{module} is not in {lock}", name=module)

sys.meta_path.insert(0, Lock())
sys.argv = ["churn-serving", *words]
from commands.main import main
try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(set().union(*[owners[module] for module in loaded if module in owners]))))
"""


def write_evidence(folder: Path, rows: int = 400) -> tuple[str, str]:
    """Records with features of two versions, and labels; return both paths."""
    began = datetime(2026, 10, 1, tzinfo=UTC)
    example = {feature.name: feature.example for feature in CONTRACT.features}
    varied = next(feature for feature in CONTRACT.features if feature.is_category)
    columns: dict[str, Any] = {
        "time": [began + timedelta(hours=hour) for hour in range(rows)],
        "request_id": [f"r-{number}" for number in range(rows)],
        "row": [0] * rows,
        "model": [CONTRACT.name] * rows,
        "predictor": ["v1"] * rows,
        "version": ["7", "8"] * (rows // 2),
        "key": [str(number) for number in range(rows)],
        "score": [(number % 10 + 0.5) / 10 for number in range(rows)],
        "source": ["store"] * rows,
        "features": [example | {varied.name: varied.categories[number % 4 // 2]} for number in range(rows)],
        "contract": [CONTRACT.fingerprint] * rows,
    }
    table = pa.table({name: columns.get(name, [None] * rows) for name in SCHEMA.names}, schema=SCHEMA)
    (folder / "records").mkdir()
    pq.write_table(table, folder / "records" / "records-20261001T000000Z-host-1-000001.parquet")
    lines = [f"r-{number},{'Yes' if number % 3 else 'No'}" for number in range(rows)]
    (folder / "labels.csv").write_text("\n".join([f"request_id,{CONTRACT.label}", *lines]) + "\n")
    return str(folder / "records"), str(folder / "labels.csv")


@pytest.fixture
def pod(built: Built) -> dict[str, Any]:
    (job,) = (one for one in built("quality") if one["kind"] == "CronJob")
    found: dict[str, Any] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def test_the_objects_have_only_fields_of_their_kind(
    built: Built, unknown_fields: Callable[[dict[str, Any]], list[str]]
) -> None:
    assert {one["kind"] for one in built("quality")} == {"CronJob", "NetworkPolicy", "PersistentVolumeClaim"}
    assert [field for one in built("quality") for field in unknown_fields(one)] == []


def test_the_arguments_are_options_of_the_command_and_their_paths_are_mounted(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    given = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    known = {name.replace("_", "-") for name in inspect.signature(quality).parameters} - {"directory"} | {"output"}
    assert set(given) <= known
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {given["records"], str(Path(given["labels"]).parent), str(Path(given["salt-file"]).parent)} <= set(mounts)
    assert mounts[given["records"]]["readOnly"] is True
    assert not mounts[given["output"]].get("readOnly")


def test_records_and_salt_are_those_of_the_records_overlay(pod: dict[str, Any], built: Built) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {one["metadata"]["name"] for one in built("overlays/records") if one["kind"] == "PersistentVolumeClaim"}
    assert volumes["records"]["persistentVolumeClaim"]["claimName"] in claims
    (deployment,) = (one for one in built("overlays/records") if one["kind"] == "SeldonDeployment")
    (container,) = deployment["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"]
    (salt,) = (one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == "SERVING_RECORD_SALT")
    assert volumes["salt"]["secret"]["secretName"] == salt["name"]
    assert any(argument.endswith(f"/{salt['key']}") for argument in pod["containers"][0]["args"])


def test_the_pod_is_locked_down_and_reaches_the_pushgateway_only(pod: dict[str, Any], built: Built) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (policy,) = (one["spec"] for one in built("quality") if one["kind"] == "NetworkPolicy")
    assert "ingress" not in policy
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    (push,) = (argument for argument in container["args"] if argument.startswith("--push="))
    assert ports == {53, int(push.rpartition(":")[2])}


def test_the_command_runs_with_the_packages_of_its_images_lock_alone(tmp_path: Path) -> None:
    records, labels = write_evidence(tmp_path)
    rewards = str(tmp_path / "rewards.json")
    words = ["quality", "--records", records, "--labels", labels, "--output", str(tmp_path / "page")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(ROOT / "requirements/quality.txt"), *words, "--rewards", rewards],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "quality.html").exists()
    # And the extra names nothing that the command does not import.
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["quality"]
    assert {re.split(r"[<>=;\[]", one)[0] for one in extra} <= set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("folder", OWN)
def test_the_build_context_has_what_the_image_copies(folder: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"COPY {folder} /opt/serving/{folder}" in dockerfile
    assert f"!{folder}" in (ROOT / ".dockerignore").read_text().splitlines()
