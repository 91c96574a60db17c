"""Two contracts that share nothing with the churn contract, each served by naming its file in SERVING_CONTRACT.

Trees: a text key, three classes, a number and a category that may be missing. Prices: no key, and an interval. Every
answer is compared with what the fitted scikit-learn model itself answers.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from jsonschema import Draft202012Validator
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.support.programs import GUARD_S, ROOT
from tests.support.serving import Server, serving

pytestmark = pytest.mark.integration

KINDS = ["oak", "pine", "birch"]
SOILS = ["clay", "sand", None]


@dataclass(frozen=True)
class Other:
    """A running server of another contract. rows: the packed features [n, WIDTH]; answers: the model's own."""

    server: Server
    rows: Any
    answers: Any

    def predict(self, body: Mapping[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.server.rest}/predict", json=body)


def running(contract: str, directory: Path) -> Iterator[Other]:
    environment = {
        "SERVING_CONTRACT": str(ROOT / "tests" / "support" / f"contract_of_{contract}.py"),
        "SERVING_BUNDLE": str(directory / "bundle"),
        "SERVING_FEATURE_STORE": f"sqlite:///{directory / 'features.db'}",
        "SERVING_DRAIN_DELAY_S": "0",
        "SERVING_ADMIN_API": "1",
    }
    program = ROOT / "tests" / "support" / "contract_bundle.py"
    made = subprocess.run(
        [sys.executable, program, directory],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    with (
        np.load(directory / "expected.npz") as expected,
        serving(environment, directory / "log", model=contract) as one,
    ):
        yield Other(one, expected["rows"], expected["answers"])


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    yield from running("trees", tmp_path_factory.mktemp("trees"))


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    yield from running("prices", tmp_path_factory.mktemp("prices"))


def tree(row: Any) -> dict[str, Any]:
    height, rings, planted, soil = row.tolist()
    return {
        "height": None if np.isnan(height) else height,
        "rings": int(rings),
        "planted": bool(planted),
        "soil": SOILS[int(soil)],
    }


def offer(row: Any) -> dict[str, Any]:
    area, rooms, balcony = row.tolist()
    return {"area": area, "rooms": int(rooms), "balcony": None if np.isnan(balcony) else bool(balcony)}


def outputs(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {each["name"]: each for each in answer.json()["outputs"]}


@pytest.mark.parametrize("number", [0, 1, 7, 199])  # every fifth tree has no height
def test_a_tree_is_found_by_its_text_key(trees: Other, number: int) -> None:
    answer = trees.predict({"tag": f"plot-{number}"}).json()
    assert list(answer) == ["tag", "kind", "probabilities", "model_version", "features"]
    expected = trees.answers[number]
    assert list(answer["probabilities"]) == KINDS
    np.testing.assert_allclose(list(answer["probabilities"].values()), expected, atol=1e-5)
    assert answer["kind"] == KINDS[int(expected.argmax())]
    assert (answer["tag"], answer["model_version"], answer["features"]) == (f"plot-{number}", "3", "store")


@pytest.mark.parametrize("number", [5, 6])
def test_given_features_replace_stored_ones_and_null_reaches_the_model(trees: Other, number: int) -> None:
    without = next(row for row in trees.rows if tree(row)["soil"] is None)
    place = trees.rows.tolist().index(without.tolist())
    answer = trees.predict({"tag": "nowhere", **tree(without)}).json()
    np.testing.assert_allclose(list(answer["probabilities"].values()), trees.answers[place], atol=1e-5)
    answer = trees.predict({"tag": "nowhere", **tree(trees.rows[number])}).json()
    np.testing.assert_allclose(list(answer["probabilities"].values()), trees.answers[number], atol=1e-5)
    assert answer["features"] == "request"


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        (
            {"tag": "gone"},
            404,
            "unknown_key",
            "tag 'gone' is not in the feature store; load it, or give all 4",
        ),
        ({"tag": ""}, 422, "invalid_input", "tag is ''; allowed: text of 1 to 20 printable characters"),
        ({"tag": "x" * 21}, 422, "invalid_input", "allowed: text of 1 to 20 printable characters"),
        ({"tag": "a\x00"}, 422, "invalid_input", "allowed: text of 1 to 20 printable characters"),
        ({"tag": 1}, 422, "invalid_input", "tag is 1; allowed: text of 1 to 20 printable characters"),
        ({"soil": "clay"}, 422, "invalid_input", "tag is missing; allowed: text"),
        ({"tag": "plot-1", "rings": 1.5}, 422, "invalid_input", "rings is 1.5; allowed: an integer from 0 to 5000"),
        ({"tag": "plot-1", "rings": None}, 422, "invalid_input", "rings is None; allowed: an integer from 0 to 5000"),
        ({"tag": "plot-1", "planted": 1}, 422, "invalid_input", "planted is 1; allowed: true or false"),
        ({"tag": "plot-1", "height": 121}, 422, "invalid_input", "allowed: a finite number from 0 to 120 m, or null"),
        (
            {"tag": "plot-1", "soil": "mud"},
            422,
            "invalid_input",
            "soil is 'mud'; allowed: one of 'clay', 'sand', or null",
        ),
    ],
)
def test_what_breaks_the_contract_is_refused(trees: Other, body: Any, status: int, code: str, message: str) -> None:
    answer = trees.predict(body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert message in answer.json()["error"]


def test_v2_rest_takes_text_keys_and_every_datatype(trees: Other) -> None:
    chosen = [3, 5, 8]
    rows = trees.rows[chosen]
    tensors = [
        ("tag", "BYTES", [f"plot-{number}" for number in chosen]),
        ("height", "FP64", [None if np.isnan(value) else value for value in rows[:, 0].tolist()]),
        ("rings", "INT32", rows[:, 1].astype(int).tolist()),
        ("planted", "BOOL", rows[:, 2].astype(bool).tolist()),
        ("soil", "BYTES", [SOILS[int(code)] for code in rows[:, 3]]),
    ]
    body = {"inputs": [{"name": n, "shape": [3], "datatype": kind, "data": data} for n, kind, data in tensors]}
    for given, source in ((body, "request"), ({"inputs": body["inputs"][:1]}, "store")):
        found = outputs(httpx.post(f"{trees.server.rest}/v2/models/trees/infer", json=given))
        assert [(each["name"], each["datatype"], each["shape"]) for each in found.values()] == [
            ("kind", "BYTES", [3, 1]),
            ("probabilities", "FP64", [3, 3]),
            ("features", "BYTES", [3, 1]),
        ]
        np.testing.assert_allclose(np.reshape(found["probabilities"]["data"], (3, 3)), trees.answers[chosen], atol=1e-5)
        assert found["kind"]["data"] == [KINDS[place] for place in trees.answers[chosen].argmax(axis=1)]
        assert found["features"]["data"] == [source] * 3


def test_a_null_category_of_the_request_replaces_the_stored_one(trees: Other) -> None:
    number = next(number for number, row in enumerate(trees.rows) if row[3] == 1)
    key = {"name": "tag", "shape": [1], "datatype": "BYTES", "data": [f"plot-{number}"]}
    expected = trees.predict({"tag": f"plot-{number}", "soil": None}).json()["probabilities"]
    stored = trees.predict({"tag": f"plot-{number}"}).json()["probabilities"]
    assert expected != stored
    for given in (None, ""):
        soil = {"name": "soil", "shape": [1], "datatype": "BYTES", "data": [given]}
        found = outputs(httpx.post(f"{trees.server.rest}/v2/models/trees/infer", json={"inputs": [key, soil]}))
        assert found["probabilities"]["data"] == pytest.approx(list(expected.values()), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "datatype", "data", "message"),
    [
        ("tag", "INT64", [1], "input 'tag' has datatype 'INT64'; allowed: BYTES"),
        ("tag", "BYTES", [""], "tag[0] is ''; allowed: text of 1 to 20 printable characters"),
        ("rings", "FP32", [1.5], "rings[0] is 1.5; allowed: an integer from 0 to 5000"),
        ("rings", "INT64", [None], "rings[0] is None; allowed: an integer"),
        ("planted", "INT64", [2], "planted[0] is 2; allowed: true or false"),
        ("height", "FP32", ["high"], "height[0] is 'high'; allowed: a number, or null"),
        ("soil", "BYTES", ["mud"], "soil[0] is 'mud'; allowed: one of 'clay', 'sand', or null"),
        ("soil", "BYTES", [2], "soil is 2; allowed: UTF-8 text"),
    ],
)
def test_v2_refuses_what_breaks_the_contract(trees: Other, name: str, datatype: str, data: Any, message: str) -> None:
    key = {"name": "tag", "shape": [1], "datatype": "BYTES", "data": ["plot-1"]}
    tensor = {"name": name, "shape": [1], "datatype": datatype, "data": data}
    body = {"inputs": [tensor] if name == "tag" else [key, tensor]}
    answer = httpx.post(f"{trees.server.rest}/v2/models/trees/infer", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]


@pytest.mark.parametrize("client", [tritonclient.http, tritonclient.grpc], ids=["rest", "grpc"])
def test_raw_tensors_carry_text_keys_nan_and_booleans(trees: Other, client: Any) -> None:
    rows = trees.rows[:20]
    columns: list[tuple[str, str, Any]] = [
        ("tag", "BYTES", np.array([f"plot-{number}" for number in range(20)], dtype=object)),
        ("height", "FP32", rows[:, 0]),
        ("rings", "INT32", rows[:, 1].astype(np.int32)),
        ("planted", "BOOL", rows[:, 2].astype(bool)),
        # A raw element has no null: a missing category is empty.
        ("soil", "BYTES", np.array([SOILS[int(code)] or "" for code in rows[:, 3]], dtype=object)),
    ]
    assert "" in columns[-1][2]
    tensors = []
    for name, datatype, values in columns:
        tensor = client.InferInput(name, [20, 1], datatype)
        tensor.set_data_from_numpy(values.reshape(-1, 1))
        tensors.append(tensor)
    url = trees.server.grpc if client is tritonclient.grpc else trees.server.rest.removeprefix("http://")
    with client.InferenceServerClient(url) as calling:
        result = calling.infer("trees", tensors)
    np.testing.assert_allclose(result.as_numpy("probabilities"), trees.answers[:20], atol=1e-5)
    wanted = [KINDS[place].encode() for place in trees.answers[:20].argmax(axis=1)]
    assert result.as_numpy("kind").ravel().tolist() == wanted


def test_typed_grpc_tensors_carry_integers_and_booleans(trees: Other) -> None:
    request = pb.ModelInferRequest(model_name="trees")
    request.inputs.add(name="tag", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"plot-4")
    rings = request.inputs.add(name="rings", datatype="INT32", shape=[1])
    rings.contents.int_contents.append(int(trees.rows[4, 1]))
    planted = request.inputs.add(name="planted", datatype="BOOL", shape=[1])
    planted.contents.bool_contents.append(bool(trees.rows[4, 2]))
    soil = request.inputs.add(name="soil", datatype="BYTES", shape=[1])
    soil.contents.bytes_contents.append((SOILS[int(trees.rows[4, 3])] or "").encode())
    with grpc.insecure_channel(trees.server.grpc) as channel:
        kind, chances, source = GRPCInferenceServiceStub(channel).ModelInfer(request).outputs
    np.testing.assert_allclose(list(chances.contents.fp64_contents), trees.answers[4], atol=1e-5)
    assert list(chances.shape) == [1, 3]
    assert list(kind.contents.bytes_contents) == [KINDS[int(trees.answers[4].argmax())].encode()]
    assert list(source.contents.bytes_contents) == [b"store"]


def test_the_score_histogram_has_a_bin_for_each_class(trees: Other) -> None:
    def counts() -> list[float]:
        return [trees.server.samples("serving_score_bucket", model="trees", le=edge) for edge in ("0.0", "1.0", "2.0")]

    before = counts()
    assert trees.predict({"tag": "plot-2"}).status_code == 200
    place = int(trees.answers[2].argmax())
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [
        float(edge >= place) for edge in range(3)
    ]
    assert trees.server.samples("serving_score_bucket", model="trees", le="0.5") == 0


def test_a_price_comes_with_its_interval_and_needs_no_store(prices: Other) -> None:
    for number in (0, 1, 2):
        answer = prices.predict(offer(prices.rows[number])).json()
        assert list(answer) == ["price", "interval", "model_version"]
        lower, value, upper = prices.answers[number]
        numbers = [answer["price"], *answer["interval"]]
        np.testing.assert_allclose(numbers, [value, lower, upper], rtol=1e-5)
        assert numbers == [float(str(np.float32(one))) for one in numbers]  # the shortest decimals, without noise


def test_without_a_key_every_feature_is_required(prices: Other) -> None:
    answer = prices.predict({"area": 80.0})
    assert answer.status_code == 422
    assert answer.json()["error"] == (
        "rooms is missing; allowed: an integer from 1 to 50; balcony is missing; allowed: true or false, or null"
    )
    body = {"inputs": [{"name": "area", "shape": [1], "datatype": "FP32", "data": [80.0]}]}
    answer = httpx.post(f"{prices.server.rest}/v2/models/prices/infer", json=body)
    assert answer.status_code == 422
    assert "inputs are missing: rooms, balcony" in answer.json()["error"]


@pytest.mark.parametrize("rows", [1, 150])  # 150 go to the worker thread
@pytest.mark.parametrize("client", [tritonclient.http, tritonclient.grpc], ids=["rest", "grpc"])
def test_v2_answers_value_and_interval(prices: Other, client: Any, rows: int) -> None:
    chosen = prices.rows[:rows]
    tensors = []
    for place, (name, datatype, kind) in enumerate(
        [("area", "FP32", np.float32), ("rooms", "INT64", np.int64), ("balcony", "FP64", np.float64)]
    ):
        tensor = client.InferInput(name, [rows, 1], datatype)
        tensor.set_data_from_numpy(chosen[:, place : place + 1].astype(kind))
        tensors.append(tensor)
    url = prices.server.grpc if client is tritonclient.grpc else prices.server.rest.removeprefix("http://")
    with client.InferenceServerClient(url) as calling:
        result = calling.infer("prices", tensors)
    np.testing.assert_allclose(result.as_numpy("price"), prices.answers[:rows, 1:2], rtol=1e-5)
    np.testing.assert_allclose(result.as_numpy("interval"), prices.answers[:rows, [0, 2]], rtol=1e-5)


def test_metadata_and_openapi_describe_the_contract(trees: Other, prices: Other) -> None:
    found = httpx.get(f"{trees.server.rest}/v2/models/trees").json()
    assert [(each["name"], each["datatype"], each["shape"]) for each in found["inputs"]] == [
        ("tag", "BYTES", [-1, 1]),
        ("height", "FP32", [-1, 1]),
        ("rings", "INT64", [-1, 1]),
        ("planted", "BOOL", [-1, 1]),
        ("soil", "BYTES", [-1, 1]),
    ]
    found = httpx.get(f"{prices.server.rest}/v2/models/prices").json()
    assert [(each["name"], each["shape"]) for each in found["outputs"]] == [("price", [-1, 1]), ("interval", [-1, 2])]
    for other, name, row in ((trees, "Tree", {"tag": "plot-0"}), (prices, "Price", offer(prices.rows[0]))):
        schemas = httpx.get(f"{other.server.rest}/openapi.json").json()["components"]["schemas"]
        assert not list(Draft202012Validator(schemas[f"{name}Input"]).iter_errors(row))
        assert not list(Draft202012Validator(schemas[f"{name}Prediction"]).iter_errors(other.predict(row).json()))
        assert list(Draft202012Validator(schemas[f"{name}Input"]).iter_errors({}))
    schemas = httpx.get(f"{trees.server.rest}/openapi.json").json()["components"]["schemas"]
    assert not list(Draft202012Validator(schemas["TreeInput"]).iter_errors({"tag": "plot-0", "soil": None}))


def test_the_repository_api_names_the_model_as_its_contract_does(trees: Other) -> None:
    with httpx.Client(base_url=trees.server.rest, timeout=GUARD_S) as client:
        (listed,) = client.post("/v2/repository/index", json={}).json()
        assert (listed["name"], listed["state"]) == ("trees", "READY")
        assert client.post("/v2/repository/models/churn/load").status_code == 404  # the folder of its settings
        assert client.post("/v2/repository/models/trees/load").status_code == 200
        assert client.post("/v2/repository/models/trees/unload").status_code == 200
        (listed,) = client.post("/v2/repository/index", json={}).json()
        assert (listed["name"], listed["state"]) == ("trees", "UNAVAILABLE")
        assert image_health(trees.server).returncode == 1  # no model is loaded
        assert client.post("/v2/repository/models/trees/load").status_code == 200
        assert client.get("/v2/models/trees/ready").status_code == 200
        assert client.post("/predict", json={"tag": "plot-1"}).status_code == 200


def image_health(server: Server) -> subprocess.CompletedProcess[str]:
    """Run the HEALTHCHECK of the image against a server."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (check,) = [line for line in text.splitlines() if line.startswith("HEALTHCHECK") and "CMD" in line]
    _, *arguments = json.loads(check.partition("CMD ")[2])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"MLSERVER_HTTP_PORT": str(server.http_port)},
        capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip


def test_the_images_health_check_asks_for_the_model_that_is_loaded(trees: Other, prices: Other) -> None:
    for other in (trees, prices):
        checked = image_health(other.server)
        assert checked.returncode == 0, checked.stderr
