"""churn-serving manifest as a pipeline calls it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout.manifest.parsing import parse, read_documents
from tests.support.programs import GUARD_S

ROOT = Path(__file__).parents[2]


def manifest(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/manifest.py", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=GUARD_S, check=False)


def test_a_good_stream_passes_other_kinds_passed_over(built: Callable[[str], tuple[dict[str, Any], ...]]) -> None:
    stream = yaml.safe_dump_all(built("overlays/production"))
    done = manifest("validate", "-", stdin=stream)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0 errors, 0 warnings\n")


def test_every_finding_is_printed_with_its_path_and_the_exit_code_is_1() -> None:
    text = (ROOT / "seldon/base/seldondeployment.yaml").read_text()
    done = manifest(
        "validate", "-", stdin=text.replace("protocol: v2", "protocol: v3").replace("traffic: 100", "traffic: 40")
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "-: churn: error: /spec/protocol: Invalid protocol: 'v3'; allowed: seldon, tensorflow, kfserving, v2",
        "-: churn: error: /spec/predictors/0/traffic: "
        "Traffic must sum be 100 for a single predictor when set: it is 40; "
        "allowed: 100, or leave it out",
    ]


def test_findings_as_json_for_programs(tmp_path: Path) -> None:
    done = manifest("validate", str(tmp_path / "none.yaml"), "seldon/base/serviceaccounts.yaml", "-o", "json")
    assert done.returncode == 1
    assert [problem["message"] for problem in json.loads(done.stdout)] == [
        "cannot be read: No such file or directory",
        "there is no SeldonDeployment in it",
    ]


@pytest.mark.usefixtures("built")
def test_a_version_is_rendered_from_its_bundle_into_an_overlay(
    tmp_path: Path, crd_errors: Callable[[dict[str, Any]], list[str]]
) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "churn", "version": "7"}))
    arguments = ("render", "--bundle", str(tmp_path), "--overlay", "seldon/overlays/production", "--all")
    done = manifest(*arguments, "--model-uri", "s3://models/churn/7")
    objects = read_documents(done.stdout)
    (deployment,) = (one for one in objects if one["kind"] == "SeldonDeployment")
    assert crd_errors(deployment) == []
    assert parse(deployment).stable.graph.model_uri == "s3://models/churn/7"
    assert (parse(deployment).stable.name, parse(deployment).stable.image) == ("v7", "churn-serving:7")
    assert {one["kind"] for one in objects} >= {"Namespace", "Role", "NetworkPolicy", "PodDisruptionBudget"}


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no version: give --version 7, or --bundle var/bundle"),
        (("--version", "7.1"), "/spec/predictors/0/name: 'v7.1' is not a DNS label"),
        (("--version", "7", "--model-uri", "models:/churn/7"), "the storage initializer does not know the registry"),
        (("--version", "7", "--overlay", "seldon/nowhere"), "error: seldon/nowhere is no directory"),
    ],
)
def test_what_would_be_refused_is_not_rendered(arguments: tuple[str, ...], words: str) -> None:
    done = manifest("render", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_capacity_prints_what_the_overlay_must_say() -> None:
    done = manifest("capacity", "-o", "json")
    said = json.loads(done.stdout)
    assert {"usable_rps_per_pod", "minReplicas", "maxReplicas", "averageUtilization"} < set(said)
    offered = re.search(r"^# capacity: \{pod_rps: (\d+)\}", (ROOT / "seldon/rollout.yaml").read_text(), re.MULTILINE)
    assert offered is not None
    assert int(offered[1]) == said["rps_per_pod"]


@pytest.mark.usefixtures("built")
def test_the_surroundings_are_everything_but_the_deployment_and_need_no_version() -> None:
    overlay = ("render", "--overlay", "seldon/overlays/production")
    everything = read_documents(manifest(*overlay, "--version", "7", "--all").stdout)
    surroundings = read_documents(manifest(*overlay, "--surroundings").stdout)
    assert surroundings == tuple(one for one in everything if one["kind"] != "SeldonDeployment")
    refused = manifest(*overlay, "--surroundings", "--all")
    assert (refused.returncode, "exclude each other" in refused.stderr) == (2, True)


@pytest.mark.usefixtures("built")
def test_another_models_bundle_is_rendered_for_it_and_valid(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"name": "credit", "version": "7"}))
    refused = manifest("render", "--bundle", str(tmp_path))
    assert (refused.returncode, "render one for it: --model credit" in refused.stderr) == (1, True)
    done = manifest("render", "--bundle", str(tmp_path), "--model", "credit", "--name", "credit")
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout).stable.model_container.name == "credit"
    checked = manifest("validate", "-", stdin=done.stdout)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "0 errors, 0 warnings\n")
    overlay = ("--overlay", "seldon/overlays/production", "--all")
    refused = manifest("render", "--version", "7", "--model", "credit", "--name", "credit", *overlay)
    assert (refused.returncode, "select its pods by name" in " ".join(refused.stderr.split())) == (2, True)
