"""The CronJob that measures quality: its fields, its arguments, its mounts, and what its image needs."""

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

from handoff.quality.command import quality

ROOT = Path(__file__).parents[2]
Built = Callable[[str], tuple[dict[str, Any], ...]]
OWN = ("handoff", "custom_runtime", "commands")
NOT_NEEDED = {"_distutils_hack", "greenlet"}  # loaded where they are installed: by setuptools, by SQLAlchemy
PROGRAM = """
import json, sys
import commands.main, handoff.quality.command
import handoff.quality.checking, handoff.quality.exposition, handoff.quality.rewards, scipy.stats
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules} - {*sys.stdlib_module_names})))
"""


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


def test_the_images_lock_has_every_package_that_the_command_imports() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(json.loads(done.stdout))
    owners = packages_distributions()
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/train.txt").read_text(), re.MULTILINE))
    packages = {
        module: {re.sub(r"[-_.]+", "-", name).lower() for name in owners[module]}
        for module in loaded - set(OWN)
        if module in owners
    }
    assert {"pandas", "pyarrow", "sklearn", "prometheus_client", "scipy"} <= set(packages)
    assert {module for module, names in packages.items() if not names & locked} <= NOT_NEEDED


@pytest.mark.parametrize("folder", OWN)
def test_the_build_context_has_what_the_image_copies(folder: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"COPY {folder} /opt/serving/{folder}" in dockerfile
    assert f"!{folder}" in (ROOT / ".dockerignore").read_text().splitlines()
