"""Models of MLServer's own runtimes beside ours, under `churn-serving serve --models`: over REST and over gRPC."""

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc

from tests.support.programs import GUARD_S
from tests.support.serving import Server, World, serving

pytestmark = pytest.mark.integration

CHURN_SERVING = str(Path(sys.executable).with_name("churn-serving"))
OTHERS = (("churn-xgboost", "predict", 0), ("churn-sklearn", "predict_proba", 1))


@pytest.fixture(scope="module")
def mixed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = (CHURN_SERVING, "serve", "--models", str(world.model_settings))
    with serving(world.environment, tmp_path_factory.mktemp("mixed") / "log", command=command) as running:
        yield running


@pytest.fixture
def rows(world: World) -> np.ndarray:
    found: np.ndarray = np.load(world.expected)["rows"][:3].astype(np.float32)
    return found


@pytest.mark.parametrize(("model", "output", "column"), OTHERS)
def test_another_runtime_answers_over_rest(
    mixed: Server, rows: np.ndarray, model: str, output: str, column: int
) -> None:
    with httpx.Client(base_url=f"{mixed.rest}/v2/models/{model}", timeout=GUARD_S) as client:
        assert client.get("/ready").status_code == 200
        assert httpx.get(f"{mixed.rest}/v2/models/{model}", timeout=GUARD_S).json()["name"] == model
        tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
        body = {"inputs": [tensor], "outputs": [{"name": output}]}
        answer = client.post("/infer", json=body)
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["outputs"]
        assert found["name"] == output
        scores = np.array(found["data"]).reshape(found["shape"])[:, column]
        assert ((scores > 0) & (scores < 1)).all()
        refused = client.post("/infer", json={"inputs": "nothing"})
        assert refused.status_code == 422


@pytest.mark.parametrize(("model", "output", "column"), OTHERS)
def test_another_runtime_answers_over_grpc_as_over_rest(
    mixed: Server, rows: np.ndarray, model: str, output: str, column: int
) -> None:
    tensor = {"name": "features", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    body = {"inputs": [tensor], "outputs": [{"name": output}]}
    over_rest = httpx.post(f"{mixed.rest}/v2/models/{model}/infer", json=body, timeout=GUARD_S).json()["outputs"][0]
    given = tritonclient.grpc.InferInput("features", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows)
    with tritonclient.grpc.InferenceServerClient(mixed.grpc) as client:
        assert client.is_model_ready(model)
        assert client.get_model_metadata(model).name == model
        wanted = [tritonclient.grpc.InferRequestedOutput(output)]
        found = client.infer(model, [given], outputs=wanted, client_timeout=GUARD_S).as_numpy(output)
        np.testing.assert_allclose(found.ravel(), over_rest["data"], atol=1e-6)
    # One too many columns: MLServer's runtime refuses it, and the server goes on.
    wide = tritonclient.grpc.InferInput("features", [1, rows.shape[1] + 1], "FP32")
    wide.set_data_from_numpy(np.zeros((1, rows.shape[1] + 1), np.float32))
    with tritonclient.grpc.InferenceServerClient(mixed.grpc) as client:
        with pytest.raises(tritonclient.grpc.InferenceServerException):
            client.infer(model, [wide], client_timeout=GUARD_S)
        assert client.is_server_ready()


def test_a_model_that_nobody_serves_is_still_unknown(mixed: Server) -> None:
    with grpc.insecure_channel(mixed.grpc) as channel:
        request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="nope").SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request, timeout=GUARD_S)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert mixed.samples("serving_refused_total", protocol="grpc", code="unknown_model") == 1
