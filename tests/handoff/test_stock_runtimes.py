"""MLServer's own runtimes, in a real server, on the settings that the repository ships."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from handoff.dataset import Dataset
from handoff.training import TrainedModel, write_stock
from local_seldon.ports import free_ports
from tests.handoff.conftest import Registered
from tests.support.programs import GUARD_S

FOLDERS = ("churn-xgboost", "churn-sklearn")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(registered: Registered, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`mlserver start` on both folders, with the files of the registered models where the settings look for them."""
    place = tmp_path_factory.mktemp("stock")
    for version in registered.versions.values():
        write_stock(registered.registry.download(version).model, place / "var" / "stock")
    for folder in FOLDERS:
        shutil.copytree(root / "model-settings" / folder, place / "model-settings" / folder)
    http, grpc, metrics = free_ports(3)
    environment = os.environ | {
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_DEBUG": "false",
    }
    command: list[Any] = [Path(sys.executable).with_name("mlserver"), "start", place / "model-settings"]
    with (
        (place / "log").open("wb") as log,
        httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=GUARD_S) as client,
    ):
        process = subprocess.Popen(command, env=environment, cwd=place, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + GUARD_S
            while not all(_ready(client, folder) for folder in FOLDERS):
                text = (place / "log").read_text()
                assert process.poll() is None, text
                assert time.monotonic() < deadline, text
                time.sleep(0.1)
            yield client
        finally:
            process.terminate()
            process.wait(timeout=GUARD_S)


def _ready(client: httpx.Client, model: str) -> bool:
    try:
        return client.get(f"/v2/models/{model}/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("flavor", "output", "column"), [("xgboost", "predict", 0), ("sklearn", "predict_proba", 1)])
def test_a_stock_runtime_scores_as_the_registered_model(
    server: httpx.Client, trained: dict[str, TrainedModel], dataset: Dataset, flavor: str, output: str, column: int
) -> None:
    rows = dataset.rows[:500]
    tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    answer = server.post(f"/v2/models/churn-{flavor}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["outputs"]
    assert found["name"] == output
    scores = np.array(found["data"]).reshape(found["shape"])[:, column]
    np.testing.assert_allclose(scores, trained[flavor].model.predict_proba(rows)[:, 1], atol=1e-6)
