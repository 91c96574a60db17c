"""The Seldon protocol gives the same probabilities as /predict, and refuses with the same words."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from custom_runtime.active import CONTRACT
from tests.custom_runtime.seldon_component.conftest import Microservice
from tests.support.programs import GUARD_S
from tests.support.serving import World

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# What somebody with Seldon's own client would write.
CLIENT = """
import json, sys
import numpy as np
from seldon_core.seldon_client import SeldonClient
answers = {}
for transport, port in zip(("rest", "grpc"), sys.argv[1:]):
    client = SeldonClient(microservice_endpoint=f"127.0.0.1:{port}", transport=transport)
    answer = client.microservice(data=np.array([[42], [43]]), names=["customer_id"], method="predict")
    assert answer.success, answer.msg
    answers[transport] = list(answer.response.data.tensor.values)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def ask(microservice: Microservice) -> Iterator[Any]:
    with httpx.Client(base_url=microservice.url, timeout=GUARD_S) as opened:
        yield lambda body, path="/api/v1.0/predictions": opened.post(path, json=body)


def test_all_customers_get_the_probabilities_of_the_registered_model(ask: Any, world: World) -> None:
    expected = np.load(world.expected)
    answer = ask({"data": {"names": [CONTRACT.key], "ndarray": [[int(one)] for one in expected["ids"]]}})
    assert answer.json()["data"]["names"] == ["churn_probability"]
    given = np.array(answer.json()["data"]["ndarray"])[:, 0]
    assert np.abs(given - expected["champion"]).max() <= 1e-5


def test_same_answer_as_predict_for_json_data_and_for_columns(ask: Any, client: httpx.Client) -> None:
    body = {CONTRACT.key: 42, "tenure_months": 12.0, "partner": "Yes"}
    wanted = client.post("/predict", json=body).json()
    assert ask({"jsonData": body}).json()["jsonData"] == pytest.approx(wanted, abs=1e-6)
    table = {"names": list(body), "ndarray": [list(body.values())]}
    answer = ask({"data": table}).json()
    assert answer["data"]["ndarray"][0][0] == pytest.approx(wanted["churn_probability"], abs=1e-6)
    assert answer["meta"]["tags"] == {"model": "churn", "model_version": wanted["model_version"], "features": ["store"]}


def test_one_column_needs_no_name_and_a_tensor_is_answered_by_a_tensor(ask: Any) -> None:
    answer = ask({"data": {"tensor": {"shape": [2, 1], "values": [42, 43]}}}).json()
    assert answer["data"]["tensor"]["shape"] == [2, 1]
    assert answer["data"]["tensor"]["values"] == [
        row[0] for row in ask({"data": {"ndarray": [[42], [43]]}}).json()["data"]["ndarray"]
    ]


def test_seldons_own_client_gets_the_same_over_rest_and_grpc(microservice: Microservice, client: httpx.Client) -> None:
    command = [str(microservice.python), "-c", CLIENT, str(microservice.http_port), str(microservice.grpc_port)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GUARD_S)
    assert done.returncode == 0, done.stderr
    wanted = [client.post("/predict", json={CONTRACT.key: one}).json()["churn_probability"] for one in (42, 43)]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["rest"] == pytest.approx(wanted, abs=1e-6)
    assert answers["grpc"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("data", "status", "reason", "words"),
    [
        ({"ndarray": [[99_999_999]]}, 404, "unknown_key", "99999999 is not in the feature store"),
        ({"ndarray": [[1.5]]}, 422, "invalid_input", "1.5 is not a whole number"),
        ({"ndarray": [[-1]]}, 422, "invalid_input", "customer_id"),
        ({"ndarray": [["forty-two"]]}, 422, "invalid_input", "forty-two"),
        ({"ndarray": [[42, 1]]}, 422, "invalid_input", "shape [1, 2] for 1 names"),
        ({"names": [CONTRACT.key, "shoe_size"], "ndarray": [[42, 43]]}, 422, "invalid_input", "shoe_size"),
        ({"names": [CONTRACT.key, "tenure_months"], "ndarray": [[42, -3]]}, 422, "invalid_input", "tenure_months"),
        ({"names": [CONTRACT.key, "contract"], "ndarray": [[42, "Ten years"]]}, 422, "invalid_input", "Ten years"),
        ({"names": ["tenure_months"], "ndarray": [[3]]}, 422, "invalid_input", "customer_id"),
    ],
)
def test_refusals_carry_the_status_and_code_of_the_error_table(
    ask: Any, data: Any, status: int, reason: str, words: str
) -> None:
    answer = ask({"data": data})
    assert answer.status_code == status
    assert answer.json()["status"]["reason"] == reason
    assert words in answer.json()["status"]["info"]


def test_requests_of_many_threads_each_get_their_own_answer(ask: Any, world: World) -> None:
    expected = np.load(world.expected)
    wanted = dict(zip(expected["ids"].tolist(), expected["champion"].tolist(), strict=True))
    chosen = expected["ids"][:200].tolist()
    with ThreadPoolExecutor(16) as threads:
        answers = threads.map(lambda one: ask({"jsonData": {CONTRACT.key: one}}).json()["jsonData"], chosen)
        for customer_id, answer in zip(chosen, answers, strict=True):
            assert answer[CONTRACT.key] == customer_id
            assert answer["churn_probability"] == pytest.approx(wanted[customer_id], abs=1e-5)


def test_metadata_is_the_contracts(microservice: Microservice) -> None:
    metadata = httpx.get(f"{microservice.url}/metadata").json()
    assert metadata["name"] == "churn"
    assert metadata["inputs"][0]["schema"]["names"] == [CONTRACT.key, *(feature.name for feature in CONTRACT.features)]
    assert metadata["outputs"][0]["schema"]["names"] == ["churn_probability"]


def test_feedback_and_rows_are_counted(ask: Any, microservice: Microservice) -> None:
    def counted(name: Any) -> Any:
        text = httpx.get(f"http://127.0.0.1:{microservice.metrics_port}/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", text, re.MULTILINE))

    ask({"data": {"ndarray": [[42]]}})
    rows, feedback = counted("serving_rows_total"), counted("serving_feedback_total")
    request = {"data": {"ndarray": [[42]]}}
    body = {"request": request, "reward": 1.0, "truth": {"data": {"ndarray": [[1]]}}}
    assert ask(body, "/api/v1.0/feedback").status_code == 200
    assert ask({"data": {"ndarray": [[42], [43], [44]]}}).status_code == 200
    assert counted("serving_feedback_total") == feedback + 1
    assert counted("serving_rows_total") == rows + 3
    assert counted("serving_model_info") >= 1


def test_health_reads_the_store(microservice: Microservice) -> None:
    answer = httpx.get(f"{microservice.url}/health/status").json()
    assert answer["jsonData"] == {"model": "churn", "model_version": "1", "store": "sqlite"}
