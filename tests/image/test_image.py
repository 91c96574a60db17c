"""The image that the Dockerfile builds, run by its own command as its own user."""

import os
import re
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from custom_runtime.features.store import sqlite_path
from handoff.errors import ImageError
from image.build import Buildah, require_programs
from image.proof import prove
from tests.support.programs import ROOT
from tests.support.serving import World

# A first run makes the base with debootstrap and fetches every wheel; a later one takes 20 s.
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1800)]
CUSTOMER_ID = 42


@pytest.fixture(scope="module")
def proof(world: World) -> Any:
    try:
        require_programs()
    except ImageError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))
    storage = ROOT / "var" / "image"
    storage.mkdir(parents=True, exist_ok=True)
    with FileLock(storage / "lock"):
        return prove(
            Buildah(storage),
            ROOT,
            bundle=world.bundle,
            features=sqlite_path(world.store),
            model="churn",
            body={"customer_id": CUSTOMER_ID},
        )


def test_predicts_as_the_registered_model_does_baked_and_mounted(proof: Any, world: World) -> None:
    expected = np.load(world.expected)
    probability = float(expected["champion"][expected["ids"] == CUSTOMER_ID][0])
    assert [(run.model, run.scorer) for run in proof.runs] == [("baked in", "auto"), ("mounted", "xgboost")]
    for run in proof.runs:
        assert run.prediction["churn_probability"] == pytest.approx(probability, abs=1e-5)
        assert run.prediction["features"] == "store"


def test_ends_with_0_when_told_to(proof: Any) -> None:
    assert [run.exit_code for run in proof.runs] == [0, 0]


def test_runs_as_user_1000_and_finds_neither_pip_nor_compiler(proof: Any) -> None:
    assert proof.user == "1000"
    assert proof.programs == ()


def test_writes_nowhere_but_to_temporary_folders(proof: Any) -> None:
    assert set(proof.writable) <= {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}


def test_carries_health_check_ports_and_labels(proof: Any) -> None:
    configuration = proof.configuration
    assert configuration["Healthcheck"]["Test"] == ["CMD", "python", "-m", "custom_runtime.server.health"]
    assert set(configuration["ExposedPorts"]) == {"8080/tcp", "8081/tcp", "8082/tcp"}
    assert configuration["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    # The operator injects these; a value in the image would be one more place to look.
    assert not [variable for variable in configuration["Env"] if variable.startswith("MLSERVER_")]


def test_documented_size_is_the_measured_one(proof: Any) -> None:
    page = (ROOT / "docs" / "image.md").read_text()
    found = re.search(r"\*\*(\d+) MB\*\*", page)
    assert found is not None
    documented = int(found[1])
    assert documented == pytest.approx(proof.size_bytes / 1e6, rel=0.05), "run: make image-test"
    assert [part.name for part in proof.parts if f"| {part.name} |" not in page] == []
