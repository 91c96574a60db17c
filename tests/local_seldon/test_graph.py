"""The executor of a graph as the real one behaves, its traps included; the pod of a manifest; what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from local_seldon.deployment import check_supported
from local_seldon.environment import Overrides
from local_seldon.errors import MissingArtifact, Unsupported
from local_seldon.graph.executor import Executor, Node
from local_seldon.graph.pod import pod_of
from local_seldon.replica import Ports
from rollout.manifest.parsing import parse
from tests.support.local_seldon_world import manifest, predictor

REQUEST = {"id": "7", "inputs": [{"name": "key", "shape": [1], "datatype": "INT64", "data": [1]}]}


def node(name: str, kind: str, *children: Node) -> Node:
    ports = {"features": 1, "join": 2, "a": 3, "b": 4, "route": 5, "after": 6}
    return Node(name=name, type=kind, port=ports[name], children=children)


JOINED = node("features", "TRANSFORMER", node("join", "COMBINER", node("a", "MODEL"), node("b", "MODEL")))
ROUTED = node("features", "TRANSFORMER", node("route", "ROUTER", node("a", "MODEL"), node("b", "MODEL")))


class Nodes:
    """Answers for every node; notes what each was asked."""

    def __init__(self, **answers: Callable[[Any], Any]) -> None:
        self.answers = answers
        self.asked: dict[str, Any] = {}
        self.headers: dict[str, httpx.Headers] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            name = request.url.path.split("/")[3] if "models" in request.url.path else str(request.url.port)
            return httpx.Response(200 if self.answers.get(name, lambda _: True)(None) else 503, json={"name": name})
        _, _, _, name, method = request.url.path.split("/")
        self.asked[f"{name}/{method}"] = json.loads(request.content)
        self.headers[name] = request.headers
        await asyncio.sleep(0)
        answer = self.answers.get(name, self.echo)(self.asked[f"{name}/{method}"])
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    @staticmethod
    def echo(asked: Any) -> Any:
        inputs = asked["inputs"] if isinstance(asked, dict) else asked
        return {"model_name": "stale", "id": "7", "outputs": inputs}


def call(
    nodes: Nodes, graph: Node, path: str = "/v2/models/infer", method: str = "POST", **more: Any
) -> httpx.Response:
    async def run() -> httpx.Response:
        app = Executor(graph, transport=httpx.MockTransport(nodes)).app()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.request(method, path, json=REQUEST if method == "POST" else None, **more)

    return asyncio.run(run())


def test_a_response_becomes_a_request_between_nodes_and_stale_fields_travel_along() -> None:
    nodes = Nodes(join=lambda asked: {"joined": len(asked)})
    answer = call(nodes, JOINED, headers={"x-request-id": "r1"})
    assert (answer.status_code, answer.json()) == (200, {"joined": 2})
    assert nodes.asked["features/infer"] == REQUEST
    assert nodes.asked["a/infer"] == {"model_name": "stale", "id": "7", "inputs": REQUEST["inputs"]}
    assert nodes.asked["join/aggregate"] == [{"model_name": "stale", "id": "7", "outputs": REQUEST["inputs"]}] * 2
    assert {nodes.headers[name]["x-request-id"] for name in ("features", "a", "b", "join")} == {"r1"}
    assert {nodes.headers[name]["seldon-puid"] for name in ("features", "join")} == {answer.headers["seldon-puid"]}


def test_a_router_gets_the_message_as_it_is_and_chooses_by_a_bare_number() -> None:
    nodes = Nodes(route=lambda asked: [1], b=lambda asked: {"from": "b"})
    assert call(nodes, ROUTED).json() == {"from": "b"}
    assert "outputs" in nodes.asked["route/route"]  # not renamed: a router below a node reads outputs
    assert "a/infer" not in nodes.asked
    assert call(Nodes(route=lambda asked: [-2]), ROUTED).json()["model_name"] == "stale"
    assert call(Nodes(route=lambda asked: [-1], a=lambda asked: {"from": "a"}), ROUTED).json() == {"from": "a"}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda asked: {"outputs": []}, "the router's answer is no array of integers"),
        (lambda asked: [2], "router route chose child 2; it has 2"),
        (lambda asked: [], "no array of integers"),
    ],
)
def test_a_router_that_answers_anything_else_is_a_500(answer: Callable[[Any], Any], reason: str) -> None:
    found = call(Nodes(route=answer), ROUTED)
    assert found.status_code == 500
    assert reason in found.json()["status"]["info"]


def test_the_models_name_in_the_url_replaces_every_nodes_name() -> None:
    nodes = Nodes(churn=lambda asked: {"outputs": []})
    call(nodes, JOINED, "/v2/models/churn/infer")
    assert set(nodes.asked) == {"churn/infer", "churn/aggregate"}


def test_the_first_failed_child_in_the_graphs_order_is_the_answer_without_its_content_type() -> None:
    failing = Nodes(
        a=lambda asked: httpx.Response(503, json={"error": "busy"}), b=lambda asked: httpx.Response(422, json={})
    )
    answer = call(failing, JOINED)
    assert (answer.status_code, answer.json()) == (503, {"error": "busy"})
    assert answer.headers["content-type"].startswith("text/plain")
    assert "join/aggregate" not in failing.asked

    def unreachable(asked: Any) -> Any:
        raise httpx.ConnectError("connection refused")

    answer = call(Nodes(b=unreachable), JOINED)
    assert answer.status_code == 500
    assert "connection refused" in answer.json()["status"]["info"]


def test_an_output_transformer_runs_after_its_children() -> None:
    graph = node("after", "OUTPUT_TRANSFORMER", node("a", "MODEL"))
    nodes = Nodes(a=lambda asked: {"outputs": [{"name": "score"}]}, after=lambda asked: {"seen": asked["inputs"]})
    assert call(nodes, graph).json() == {"seen": [{"name": "score"}]}


def test_there_is_no_predict_and_no_feedback_and_readiness_is_every_nodes() -> None:
    assert call(Nodes(), JOINED, "/predict").status_code == 404
    assert call(Nodes(), JOINED, "/v2/models/join/feedback").status_code == 404
    assert call(Nodes(), JOINED, "/v2/models/join", "GET").json() == {"name": "join"}
    assert call(Nodes(), JOINED, "/v2/models/nothing/ready", "GET").status_code == 500
    assert call(Nodes(), JOINED, "/v2/health/ready", "GET").status_code == 200
    assert call(Nodes(**{"4": lambda asked: False}), JOINED, "/v2/health/ready", "GET").status_code == 503


# The pod of a manifest.


def graph_predictor() -> dict[str, Any]:
    document = predictor("v1", 100)
    document["annotations"] = {}
    pod = document["componentSpecs"][0]["spec"]
    template = pod["containers"][0]
    pod["containers"] = [
        {**template, "name": name, "command": ["mlserver", "start", f"custom_runtime/graph/settings/{name}"]}
        for name in ("features", "join")
    ]
    pod["containers"].append({"name": "sk", "env": [{"name": "MLSERVER_MODEL_EXTRA", "value": "{}"}]})
    branches = [
        {"name": "xgb", "type": "MODEL", "implementation": "XGBOOST_SERVER", "modelUri": "s3://x"},
        {"name": "sk", "type": "MODEL", "implementation": "SKLEARN_SERVER", "modelUri": "file:///sk"},
    ]
    parameters = [{"name": "join", "type": "STRING", "value": "mean"}]
    join = {"name": "join", "type": "COMBINER", "parameters": parameters, "children": branches}
    document["graph"] = {"name": "features", "type": "TRANSFORMER", "children": [join]}
    return document


def test_a_graphs_pod_has_a_process_for_each_node_with_the_operators_variables(tmp_path: Path) -> None:
    deployment = parse(manifest(graph_predictor()))
    check_supported(deployment)
    overrides = Overrides(artifacts={"churn-serving:1": "/bundle", "s3://x": "/xgb"})
    pod = pod_of(
        deployment,
        deployment.predictors[0],
        Ports(8000, 8001, 8002),
        overrides,
        name="v1-0",
        command=("python", "scripts/serve.py"),
        directory=tmp_path,
        log_directory=tmp_path,
        inherited={"PATH": "/bin"},
    )
    assert (pod.port, [one.name for one in pod.containers]) == (8000, ["features", "join", "xgb", "sk"])
    features, join, xgb, sk = pod.containers
    assert features.argv[1:] == ("start", "custom_runtime/graph/settings/features")
    assert features.env["MLSERVER_MODEL_URI"] == "/bundle"
    assert features.env["MLSERVER_METRICS_PORT"] == "8002"  # where the predictor's evidence is scraped
    assert "MLSERVER_MODEL_URI" not in join.env
    assert json.loads(join.env["PREDICTIVE_UNIT_PARAMETERS"]) == [{"name": "join", "type": "STRING", "value": "mean"}]
    assert (xgb.env["MLSERVER_MODEL_URI"], sk.env["MLSERVER_MODEL_URI"]) == ("/xgb", "/sk")
    assert xgb.env["MLSERVER_MODEL_IMPLEMENTATION"] == "mlserver_xgboost.XGBoostModel"
    assert (sk.env["MLSERVER_MODEL_NAME"], sk.env["MLSERVER_MODEL_EXTRA"]) == ("sk", "{}")
    assert [one.name for one in pod.graph.nodes()] == ["features", "join", "xgb", "sk"]
    ports = [one.port for one in pod.graph.nodes()]
    assert ports == [int(one.env["MLSERVER_HTTP_PORT"]) for one in pod.containers]
    assert len({*ports, 8000}) == 5


def test_a_branch_without_its_model_and_a_graph_without_the_engine_are_refused(tmp_path: Path) -> None:
    document = graph_predictor()
    deployment = parse(manifest(document))
    with pytest.raises(MissingArtifact, match="modelUri 's3://x'"):
        pod_of(
            deployment,
            deployment.predictors[0],
            Ports(1, 2, 3),
            Overrides(artifacts={"churn-serving:1": "/bundle"}),
            name="v1-0",
            command=(),
            directory=tmp_path,
            log_directory=tmp_path,
            inherited={},
        )
    document["annotations"] = {"seldon.io/no-engine": "true"}
    with pytest.raises(Unsupported, match="a graph of several nodes, which needs the engine"):
        check_supported(parse(manifest(document)))
