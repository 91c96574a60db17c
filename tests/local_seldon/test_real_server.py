"""The service itself behind the stand-in: REST and gRPC through Envoy, and counted there."""

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
from scipy.stats import binomtest
from tritonclient.utils import InferenceServerException

from local_seldon.deployment import read_manifest
from rollout.evidence.envoy_stats import envoy_stats
from rollout.manifest.parsing import to_dict
from rollout.targets.local import LocalTarget
from rollout.targets.local_store import LocalStore
from tests.support.programs import GUARD_S, ROOT, eventually
from tests.support.serving import PATIENT, World

pytestmark = pytest.mark.integration
BASE_MANIFEST = ROOT / "seldon" / "base" / "seldondeployment.yaml"
PATH = "/seldon/default/churn"


@pytest.fixture(scope="module")
def runtime(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The base manifest, with a second predictor at half the traffic, and a third as a shadow."""
    directory = tmp_path_factory.mktemp("stand-in")
    document = to_dict(read_manifest(BASE_MANIFEST.read_bytes()))
    (first,) = document["spec"]["predictors"]
    second = copy.deepcopy(first) | {"name": "v2", "traffic": 50}
    shadow = copy.deepcopy(first) | {"name": "v3", "shadow": True}
    document["spec"]["predictors"] = [first | {"traffic": 50}, second, shadow]
    file = directory / "churn.json"
    file.write_text(json.dumps(document))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "scripts/seldon_local.py", *arguments, "--state", str(directory / "state")]
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=GUARD_S)

    served = {"SERVING_FEATURE_STORE": world.store, "SERVING_DRAIN_DELAY_S": "0"} | PATIENT
    env = [word for name, value in served.items() for word in ("--env", f"{name}={value}")]
    words = ["--port", "0", "-d", "-o", "json", "--artifact", f"churn-serving:1={world.bundle}", *env]
    up = run("up", str(file), *words, "--timeout-s", str(GUARD_S))
    assert up.returncode == 0, up.stderr
    try:
        yield json.loads(up.stdout)
    finally:
        assert run("down", "default/churn").returncode == 0
        assert not list(Path(directory / "state").rglob("runtime.json"))


@pytest.fixture
def target(runtime: dict[str, Any]) -> LocalTarget:
    return LocalTarget(LocalStore.of(Path(runtime["source"]).parent / "state", "default", "churn"))


def test_predict_and_v2_answer_alike_below_the_operators_path(runtime: dict[str, Any]) -> None:
    with httpx.Client(base_url=runtime["url"], timeout=GUARD_S) as client:
        predicted = client.post(f"{PATH}/predict", json={"customer_id": 42})
        tensor = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
        inferred = client.post(f"{PATH}/v2/models/churn/infer", json={"inputs": [tensor]})
        missing = client.post(f"{PATH}/predict", json={"customer_id": 10_000_000})
    assert predicted.status_code == inferred.status_code == 200
    outputs = {one["name"]: one["data"] for one in inferred.json()["outputs"]}
    assert outputs["churn_probability"] == [pytest.approx(predicted.json()["churn_probability"])]
    assert missing.status_code == 404
    assert missing.json()["code"] == "unknown_key"


def test_grpc_goes_through_the_same_port_by_istios_headers(runtime: dict[str, Any]) -> None:
    tensor = grpc_client.InferInput("customer_id", [1], "INT64")
    tensor.set_data_from_numpy(np.array([42]))
    with grpc_client.InferenceServerClient(runtime["url"].removeprefix("http://")) as client:
        found = [
            client.infer("churn", [tensor], headers=headers).as_numpy("churn_probability")
            for headers in ({"seldon": "churn", "namespace": "default"}, {}, {}, {})
        ]
        with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
            client.infer("churn", [tensor], headers={"seldon": "other", "namespace": "default"})
    assert len({float(one[0, 0]) for one in found}) == 1


def test_grpc_is_split_by_the_weights_chosen_by_a_header_and_counted_by_the_gateway(
    runtime: dict[str, Any], target: LocalTarget
) -> None:
    def counts() -> dict[str, int]:
        return {name: one.requests for name, one in envoy_stats(target.mesh_statistics()).items()}

    tensor = grpc_client.InferInput("customer_id", [1], "INT64")
    tensor.set_data_from_numpy(np.array([42]))
    before, served_before = counts(), {name: _v2_grpc(runtime, name) for name in ("v1", "v2", "v3")}
    with grpc_client.InferenceServerClient(runtime["url"].removeprefix("http://")) as client:
        for _ in range(60):
            client.infer("churn", [tensor])
        split = {name: counts()[name] - before[name] for name in ("v1", "v2")}
        for _ in range(10):
            client.infer("churn", [tensor], headers={"x-seldon-predictor": "v2"})
    # A copy for the shadow is nobody's answer, so it may arrive later; what a header has chosen is not copied.
    eventually(lambda: _v2_grpc(runtime, "v3") - served_before["v3"], lambda copies: copies >= 60)
    gained = {name: counts()[name] - before[name] for name in ("v1", "v2")}
    served = {name: _v2_grpc(runtime, name) - served_before[name] for name in ("v1", "v2", "v3")}
    assert served == {**gained, "v3": 60} == {"v1": split["v1"], "v2": split["v2"] + 10, "v3": 60}
    assert sum(split.values()) == 60
    assert binomtest(split["v2"], 60, 0.5).pvalue > 0.001


def test_a_grpc_refusal_is_counted_as_rejected(runtime: dict[str, Any], target: LocalTarget) -> None:
    before = envoy_stats(target.mesh_statistics())["v1"]
    tensor = grpc_client.InferInput("customer_id", [1], "INT64")
    tensor.set_data_from_numpy(np.array([10_000_000]))
    with (
        grpc_client.InferenceServerClient(runtime["url"].removeprefix("http://")) as client,
        pytest.raises(InferenceServerException, match="NOT_FOUND"),
    ):
        client.infer("churn", [tensor], headers={"x-seldon-predictor": "v1"})
    after = envoy_stats(target.mesh_statistics())["v1"]
    assert (after.requests - before.requests, after.rejected - before.rejected) == (1, 1)
    assert after.errors == before.errors


def _v2_grpc(runtime: dict[str, Any], predictor: str) -> int:
    """Return how many gRPC requests a predictor's only replica has answered."""
    (replica,) = runtime["predictors"][predictor]
    text = httpx.get(f"http://127.0.0.1:{replica['metrics']}/prometheus", timeout=GUARD_S).text
    counts = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("serving_request_seconds_count")
        and 'route="v2_grpc"' in line
        and f'predictor="{predictor}"' in line
    ]
    return int(sum(counts))
