"""Explanations over every protocol: the same numbers for every customer, and they add up to the model's margin."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import xgboost

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import WIDTH, decode_row
from tests.support.programs import GUARD_S
from tests.support.serving import Server, World, serving

NAMES = [feature.name for feature in CONTRACT.features]
INFER = "/v2/models/churn/infer"
TOP = 5


@pytest.fixture(scope="module")
def expected(world: World) -> Any:
    return of_xgboost(world, every=20)


def of_xgboost(world: World, *, every: int) -> Any:
    """XGBoost's own contributions and margins for one customer in so many, from the registered model's file."""
    with np.load(world.expected) as stored:
        ids, rows = stored["ids"][::every], stored["rows"][::every]
    booster = xgboost.Booster(model_file=next(world.bundle.glob("model-*.ubj")))
    booster.set_param({"nthread": 1})  # its threads wait for each other in a loop, on a busy machine for minutes
    matrix = xgboost.DMatrix(rows, nthread=1)
    contributions = booster.predict(matrix, pred_contribs=True)
    return ids, rows, contributions, booster.predict(matrix, output_margin=True)


def asked(ids: Any, **body: Any) -> dict[str, Any]:
    return {"inputs": [{"name": CONTRACT.key, "shape": [len(ids)], "datatype": "INT64", "data": ids.tolist()}], **body}


def shown(value: float | str | None) -> float | str:
    return value if isinstance(value, str) else float(str(np.float32(value)))


def outputs(answer: Any) -> dict[str, Any]:
    return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in answer.json()["outputs"]}


@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_every_customer_is_explained_as_xgboost_explains_them(client: httpx.Client, world: World, every: int) -> None:
    ids, _, contributions, margins = of_xgboost(world, every=every)
    assert len(ids) == -(-7043 // every)
    wanted = [{"name": "contributions"}, {"name": "base_value"}, {"name": CONTRACT.outputs[0].name}]
    for start in range(0, len(ids), 1000):
        part = slice(start, start + 1000)
        answer = client.post(INFER, json=asked(ids[part], outputs=wanted), timeout=GUARD_S)
        assert answer.status_code == 200, answer.text
        found = outputs(answer)
        assert list(found) == [CONTRACT.outputs[0].name, "contributions", "base_value"]
        np.testing.assert_allclose(found["contributions"], contributions[part, :-1], atol=1e-6)
        total = found["contributions"].sum(axis=1) + found["base_value"][:, 0]
        np.testing.assert_allclose(total, margins[part], atol=1e-5)
        np.testing.assert_allclose(1 / (1 + np.exp(-total)), found[CONTRACT.outputs[0].name][:, 0], atol=1e-5)


def test_predict_lists_the_largest_contributions_first(client: httpx.Client, expected: Any) -> None:
    ids, rows, contributions, margins = expected
    for place in (0, 17, 200):
        answer = client.post(f"/predict?explain={TOP}", json={CONTRACT.key: int(ids[place])})
        assert answer.status_code == 200, answer.text
        plain = client.post("/predict", json={CONTRACT.key: int(ids[place])}).json()
        body = answer.json()
        explanation = body.pop("explanation")
        assert body == plain
        listed = explanation["contributions"]
        order = np.argsort(-np.abs(contributions[place, :-1]))[:TOP]
        assert [entry["feature"] for entry in listed] == [NAMES[feature] for feature in order]
        values = decode_row(rows[place])
        assert {entry["feature"]: entry["value"] for entry in listed} == {
            entry["feature"]: shown(values[entry["feature"]]) for entry in listed
        }
        total = explanation["base_value"] + sum(entry["contribution"] for entry in listed) + explanation["others"]
        assert total == pytest.approx(explanation["log_odds"], abs=1e-9)
        assert explanation["log_odds"] == pytest.approx(float(margins[place]), abs=1e-5)


def test_a_given_feature_is_explained_with_its_given_value(client: httpx.Client) -> None:
    body = {CONTRACT.key: 1, "contract": "Two year", "tenure_months": 70}
    listed = client.post(f"/predict?explain={WIDTH}", json=body).json()["explanation"]
    values = {entry["feature"]: entry["value"] for entry in listed["contributions"]}
    assert len(values) == WIDTH
    assert (values["contract"], values["tenure_months"]) == ("Two year", 70.0)
    assert "others" not in listed


@pytest.mark.parametrize("slow_path", [False, True])
def test_v2_by_parameter(client: httpx.Client, plain_server: Server, expected: Any, slow_path: bool) -> None:
    ids, rows, contributions, _ = expected
    base = plain_server.rest if slow_path else str(client.base_url).rstrip("/")
    answer = httpx.post(f"{base}{INFER}", json=asked(ids[:3], parameters={"explain": TOP}), timeout=GUARD_S)
    assert answer.status_code == 200, answer.text
    found = outputs(answer)
    assert list(found) == [
        CONTRACT.outputs[0].name,
        "features",
        "base_value",
        "top_features",
        "top_values",
        "top_contributions",
    ]
    assert found["top_contributions"].shape == (3, TOP)
    for row in range(3):
        order = np.argsort(-np.abs(contributions[row, :-1]))[:TOP]
        assert found["top_features"][row].tolist() == [NAMES[feature] for feature in order]
        np.testing.assert_allclose(found["top_contributions"][row], contributions[row, order], atol=1e-6)
        values = decode_row(rows[row])
        assert found["top_values"][row].tolist() == [str(shown(values[NAMES[feature]])) for feature in order]


def test_predict_is_explained_under_plain_mlserver(plain_server: Server, client: httpx.Client) -> None:
    body = {CONTRACT.key: 17}
    answer = httpx.post(f"{plain_server.rest}/predict?explain=3", json=body, timeout=GUARD_S)
    assert answer.json() == client.post("/predict?explain=3", json=body).json()


def test_triton_clients_read_the_same_numbers_over_http_and_grpc(server: Server, expected: Any) -> None:
    ids, _, contributions, _ = expected
    names = ("contributions", "base_value", "top_features")
    http = triton_http.InferenceServerClient(server.rest.removeprefix("http://"))
    grpc = triton_grpc.InferenceServerClient(server.grpc)
    for module, client, many in ((triton_http, http, 40), (triton_grpc, grpc, 40)):
        given = module.InferInput(CONTRACT.key, [many, 1], "INT64")
        given.set_data_from_numpy(ids[:many].reshape(-1, 1))
        wanted = [module.InferRequestedOutput(name) for name in names]
        answer = client.infer("churn", [given], outputs=wanted, parameters={"explain": 2})
        np.testing.assert_allclose(answer.as_numpy("contributions"), contributions[:many, :-1], atol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("base_value")[:, 0], contributions[:many, -1], atol=1e-6)
        assert answer.as_numpy("top_features").shape == (many, 2)
    http.close()
    grpc.close()


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/predict?explain=0", {CONTRACT.key: 1}, "'explain' is 0; allowed: an integer from 1 to 19"),
        ("/predict?explain=20", {CONTRACT.key: 1}, "'explain' is 20"),
        ("/predict?explain=", {CONTRACT.key: 1}, "explain is ''"),
        ("/predict?explain=%EF%BC%95", {CONTRACT.key: 1}, "allowed: an integer"),
        ("/predict?explain=1&explain=2", {CONTRACT.key: 1}, "['1', '2']"),
        (INFER, asked(np.array([1]), parameters={"explain": True}), "'explain' is True"),
        (INFER, asked(np.array([1]), parameters={"explain": "5"}), "'explain' is '5'"),
        (INFER, asked(np.array([1]), outputs=[{"name": "top_values"}]), "'top_values' needs the parameter 'explain'"),
        (INFER, asked(np.array([1]), outputs=[{"name": "shap"}]), "unknown output 'shap'; allowed: "),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_allowed(
    client: httpx.Client, path: str, body: Any, message: str
) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert message in answer.json()["error"]


def test_an_unknown_key_and_too_many_rows_are_refused_as_ever(client: httpx.Client) -> None:
    assert client.post("/predict?explain=5", json={CONTRACT.key: 10**12}).json()["code"] == "unknown_key"
    many = np.arange(1, 1002)
    answer = client.post(INFER, json=asked(many, parameters={"explain": 5}))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_explanations_can_be_turned_off(world: World, tmp_path: Any) -> None:
    with serving(world.environment | {"SERVING_EXPLANATIONS": "0"}, tmp_path / "log") as server:
        answer = httpx.post(f"{server.rest}/predict?explain=5", json={CONTRACT.key: 1})
        assert (answer.status_code, answer.json()["code"]) == (422, "not_explainable")
        assert "SERVING_EXPLANATIONS=1" in answer.json()["error"]
        assert httpx.post(f"{server.rest}/predict", json={CONTRACT.key: 1}).status_code == 200
