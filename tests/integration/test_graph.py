"""The inference graph of seldon/overlays/graph on this machine: real MLServers behind the executor.

The manifest is the overlay's own; only the number of pods is one, and models and store are this machine's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from local_seldon.ports import free_ports
from local_seldon.process import identity
from rollout.manifest.rendering import kustomized
from tests.support.programs import GUARD_S, ROOT, eventually, program
from tests.support.serving import World, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

BRANCHES = {"churn-xgboost": "churn-xgboost.ubj", "churn-sklearn": "churn-sklearn.joblib"}
TOLERANCE = 1e-5


class Graph:
    """A running graph: where callers reach it, and its processes."""

    def __init__(self, url: str, state: Path) -> None:
        self.url = url
        self.state = state

    def ask(self, keys: list[int]) -> httpx.Response:
        key = {"name": "customer_id", "datatype": "INT64", "shape": [len(keys), 1], "data": keys}
        return httpx.post(f"{self.url}/v2/models/infer", json={"id": "7", "inputs": [key]}, timeout=GUARD_S)

    def pid_of(self, node: str) -> int:
        """Return the pid of a node's process, by what it was started with."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            mine = str(self.state).encode() in environment + command
            if b"mlserver" in command and mine and f"PREDICTIVE_UNIT_ID={node}\0".encode() in environment:
                return int(folder.name)
        raise AssertionError(f"no process of node {node}")


@contextmanager
def running(world: World, directory: Path, change: Callable[[dict[str, Any]], None]) -> Iterator[Graph]:
    program("kubectl", package="kubectl")
    (document,) = (one for one in kustomized(ROOT / "seldon/overlays/graph") if one["kind"] == "SeldonDeployment")
    document["spec"]["predictors"][0]["componentSpecs"][0]["hpaSpec"]["minReplicas"] = 1
    change(document["spec"]["predictors"][0])
    file = directory / "graph.yaml"
    file.write_text(yaml.safe_dump(document))
    (port,) = free_ports(1)
    models = [f"s3://models/{name}/1={world.stock / model}" for name, model in BRANCHES.items()]
    artifacts = [word for one in (*models, f"churn-serving:1={world.bundle}") for word in ("--artifact", one)]
    state = directory / "state"
    command = [
        sys.executable,
        "-m",
        "commands.main",
        "local",
        "up",
        str(file),
        "--port",
        str(port),
        "--state",
        str(state),
    ]
    # A fetch that is late on a busy machine would give the defaults in place of the customers' own features.
    variables = (f"SERVING_FEATURE_STORE={world.store}", f"GRAPH_TEST={state}", "SERVING_STORE_TIMEOUT_MS=60000")
    environment = [word for variable in variables for word in ("--env", variable)]
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen([*command, *artifacts, *environment], cwd=ROOT, stdout=log, stderr=log)
    graph = Graph(f"http://127.0.0.1:{port}/seldon/churn/churn", state)
    try:
        eventually(lambda: answers(graph), what="an answer of the graph")
        yield graph
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(GUARD_S)
        for node in ("features", "join", *BRANCHES):
            with pytest.raises(AssertionError, match="no process of node"):
                graph.pid_of(node)


def answers(graph: Graph) -> bool:
    try:
        return graph.ask([1]).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def graph(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with running(world, tmp_path_factory.mktemp("graph"), lambda predictor: None) as found:
        yield found


def test_every_customers_score_equals_the_join_computed_offline(graph: Graph, world: World) -> None:
    stored = np.load(world.expected)
    answer = graph.ask(stored["ids"].tolist())
    assert answer.status_code == 200, answer.text[:500]
    (output,) = answer.json()["outputs"]
    assert (answer.json()["id"], output["name"], output["shape"]) == ("7", "churn_probability", [len(stored["ids"]), 1])
    joined = (stored["champion"] + stored["challenger"]) / 2
    np.testing.assert_allclose(output["data"], joined, rtol=0, atol=TOLERANCE)


def test_an_unknown_customer_is_the_feature_nodes_404(graph: Graph) -> None:
    answer = graph.ask([99_999_999])
    assert answer.status_code == 404
    assert "99999999 is not in the feature store" in answer.json()["error"]


def test_a_models_name_in_the_path_reaches_no_node(graph: Graph) -> None:
    body = {"inputs": [{"name": "customer_id", "datatype": "INT64", "shape": [1, 1], "data": [1]}]}
    assert httpx.post(f"{graph.url}/v2/models/churn/infer", json=body).status_code == 404
    assert httpx.post(f"{graph.url}/predict", json={"customer_id": 1}).status_code == 404


def test_a_branch_that_died_fails_the_request_until_it_is_back(graph: Graph) -> None:
    pid = graph.pid_of("churn-sklearn")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: identity(pid) is None, what="the end of the branch")
    failed = graph.ask([1])
    assert failed.status_code in (500, 503)  # 503: the pod has left the mesh meanwhile
    eventually(lambda: answers(graph), what="the branch, started again")


def test_with_a_fallback_a_late_branch_is_left_out_and_named(world: World, tmp_path: Path) -> None:
    def guarded(predictor: dict[str, Any]) -> None:
        join = predictor["graph"]["children"][0]
        join["parameters"].append({"name": "when_missing", "type": "STRING", "value": "others"})
        branch = join["children"][1]
        del branch["implementation"]
        branch["parameters"] = [
            {"name": "implementation", "type": "STRING", "value": "mlserver_sklearn.SKLearnModel"},
            {"name": "predict_fn", "type": "STRING", "value": "predict_proba"},
            {"name": "timeout_ms", "type": "DOUBLE", "value": "0.001"},  # never in time
        ]
        (container,) = (
            one for one in predictor["componentSpecs"][0]["spec"]["containers"] if one["name"] == "churn-sklearn"
        )
        container["command"] = ["mlserver", "start", "custom_runtime/graph/settings/branch"]

    stored = np.load(world.expected)
    with running(world, tmp_path, guarded) as graph:
        answer = json.loads(graph.ask(stored["ids"][:50].tolist()).content)
    assert answer["parameters"] == {"missing_branches": "churn-sklearn"}
    by_branch = {"xgboost": "champion", "sklearn": "challenger"}
    np.testing.assert_allclose(answer["outputs"][0]["data"], stored[by_branch["xgboost"]][:50], rtol=0, atol=TOLERANCE)


@contextmanager
def node(kind: str, parameters: dict[str, str], log: Path) -> Iterator[str]:
    """Run one node under `mlserver start`, and yield the URL of its model."""
    given = [{"name": name, "type": "STRING", "value": value} for name, value in parameters.items()]
    environment = {
        "MLSERVER_MODEL_NAME": "n",
        "MLSERVER_PARALLEL_WORKERS": "0",
        "PREDICTIVE_UNIT_PARAMETERS": json.dumps(given),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests/support"))),
    }
    command = (str(Path(sys.executable).parent / "mlserver"), "start", f"custom_runtime/graph/settings/{kind}")
    with serving(environment, log, command=command, model="n") as server:
        yield f"{server.rest}/v2/models/n"


def test_the_combiners_route_answers_a_v2_response_and_errors_of_the_table(tmp_path: Path) -> None:
    with node("join", {"output": "probability", "when_missing": "others"}, tmp_path / "log") as url:
        tensor = {"name": "predict", "datatype": "FP32", "shape": [1, 1], "data": [0.2]}
        missing = {"model_name": "b", "outputs": [], "parameters": {"unavailable": "late"}}
        answer = httpx.post(f"{url}/aggregate", json=[{"model_name": "a", "id": "7", "outputs": [tensor]}, missing])
        assert answer.status_code == 200
        assert answer.json() == {
            "model_name": "n",
            "id": "7",
            "outputs": [{"name": "probability", "datatype": "FP64", "shape": [1, 1], "data": [0.2]}],
            "parameters": {"missing_branches": "b"},
        }
        for body in (b"{", b"[]", b"[1]"):
            refused = httpx.post(f"{url}/aggregate", content=body)
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")
        assert httpx.post(f"{url}/aggregate", json=[{"outputs": []}]).status_code == 422
        assert httpx.post(f"{url}/aggregate", json=[missing]).status_code == 503
        assert "is a combiner" in httpx.post(f"{url}/infer", json={"inputs": [tensor]}).text


def test_the_routers_route_answers_a_bare_number(tmp_path: Path) -> None:
    parameters = {"route": "share", "children": '["a", "b"]', "shares": "[0, 1]"}
    with node("route", parameters, tmp_path / "log") as url:
        assert httpx.post(f"{url}/route", json={"inputs": []}).json() == [1]


def test_a_branch_that_raises_or_is_late_says_so_instead_of_failing(tmp_path: Path) -> None:
    parameters = {"implementation": "slow_runtime.SlowRuntime", "timeout_ms": "500"}
    with node("branch", parameters, tmp_path / "log") as url:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0.2]}
        answers = {
            one: httpx.post(f"{url}/infer", json={"id": one, "inputs": [tensor]}, timeout=GUARD_S).json()
            for one in ("good", "raise", "hang")
        }
    assert answers["good"]["outputs"][0]["data"] == [0.5]
    assert (answers["raise"]["outputs"], answers["raise"]["parameters"]["unavailable"]) == ([], "ZeroDivisionError")
    assert (answers["hang"]["id"], answers["hang"]["parameters"]["unavailable"]) == ("hang", "no answer within 500 ms")
    said = (tmp_path / "log").read_text()
    assert said.count("branch_unavailable") == 1  # the first of the two; the next line comes after a minute
    assert "ZeroDivisionError" in said
