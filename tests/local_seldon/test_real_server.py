"""The service itself behind the stand-in: every door through Caddy."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from local_seldon.deployment import read_manifest
from rollout.manifest.parsing import to_dict
from tests.support.programs import ROOT
from tests.support.serving import World

pytestmark = pytest.mark.integration
BASE_MANIFEST = ROOT / "seldon" / "base" / "seldondeployment.yaml"
PATH = "/seldon/default/churn"


@pytest.fixture(scope="module")
def runtime(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The base manifest, with a second predictor at half the traffic."""
    directory = tmp_path_factory.mktemp("stand-in")
    document = to_dict(read_manifest(BASE_MANIFEST.read_bytes()))
    (first,) = document["spec"]["predictors"]
    second = copy.deepcopy(first) | {"name": "v2", "traffic": 50}
    document["spec"]["predictors"] = [first | {"traffic": 50}, second]
    file = directory / "churn.json"
    file.write_text(json.dumps(document))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "scripts/seldon_local.py", *arguments, "--state", str(directory / "state")]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)

    env = ["--env", f"SERVING_FEATURE_STORE={world.store}", "--env", "SERVING_DRAIN_DELAY_S=0"]
    up = run("up", str(file), "--port", "0", "-d", "-o", "json", "--artifact", f"churn-serving:1={world.bundle}", *env)
    assert up.returncode == 0, up.stderr
    try:
        yield json.loads(up.stdout)
    finally:
        assert run("down", "default/churn").returncode == 0
        assert not list(Path(directory / "state").rglob("runtime.json"))


def test_predict_and_v2_answer_alike_below_the_operators_path(runtime: dict[str, Any]) -> None:
    with httpx.Client(base_url=runtime["url"], timeout=20) as client:
        predicted = client.post(f"{PATH}/predict", json={"customer_id": 42})
        tensor = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
        inferred = client.post(f"{PATH}/v2/models/churn/infer", json={"inputs": [tensor]})
        missing = client.post(f"{PATH}/predict", json={"customer_id": 10_000_000})
    assert predicted.status_code == inferred.status_code == 200
    outputs = {one["name"]: one["data"] for one in inferred.json()["outputs"]}
    assert outputs["churn_probability"] == [pytest.approx(predicted.json()["churn_probability"])]
    assert missing.status_code == 404
    assert missing.json()["code"] == "unknown_customer"


def test_grpc_goes_through_the_same_port_by_istios_headers(runtime: dict[str, Any]) -> None:
    tensor = grpc_client.InferInput("customer_id", [1], "INT64")
    tensor.set_data_from_numpy(np.array([42]))
    with grpc_client.InferenceServerClient(runtime["url"].removeprefix("http://")) as client:
        found = [
            client.infer("churn", [tensor], headers=headers).as_numpy("churn_probability")
            for headers in ({"seldon": "churn", "namespace": "default"}, {}, {}, {})
        ]
        with pytest.raises(InferenceServerException, match="404"):
            client.infer("churn", [tensor], headers={"seldon": "other", "namespace": "default"})
    assert len({float(one[0, 0]) for one in found}) == 1
    served = {name: _v2_grpc(runtime, name) for name in ("v1", "v2")}
    assert served == {"v1": 2, "v2": 2}


def _v2_grpc(runtime: dict[str, Any], predictor: str) -> int:
    """Return how many gRPC requests a predictor has answered, read through its own path."""
    text = httpx.get(f"{runtime['url']}/predictors/{predictor}/0/metrics", timeout=20).text
    counts = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("serving_request_seconds_count")
        and 'route="v2_grpc"' in line
        and f'predictor="{predictor}"' in line
    ]
    return int(sum(counts))
