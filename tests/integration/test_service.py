"""What a healthy service publishes about itself: metadata, OpenAPI, metrics."""

import re

import grpc
import httpx
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from custom_runtime.active import CONTRACT
from custom_runtime.metrics import OUTCOMES
from tests.support.programs import GUARD_S
from tests.support.serving import Server

pytestmark = pytest.mark.integration
KEY = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}


def test_metadata_describes_the_contract_over_rest_and_grpc(client: httpx.Client, server: Server) -> None:
    rest = client.get("/v2/models/churn").json()
    with tritonclient.grpc.InferenceServerClient(server.grpc) as over_grpc:
        rpc = over_grpc.get_model_metadata("churn", as_json=True)
    wanted = [("customer_id", "INT64"), *((feature.name, feature.datatype) for feature in CONTRACT.features)]
    assert [(each["name"], each["datatype"]) for each in rest["inputs"]] == wanted
    assert [(each["name"], each["datatype"]) for each in rpc["inputs"]] == wanted
    assert [(each["name"], each["datatype"]) for each in rest["outputs"]] == [
        ("churn_probability", "FP64"),
        ("features", "BYTES"),
    ]
    assert (rest["versions"], rpc["versions"]) == (["1"], ["1"])
    assert all(each["shape"] == [-1, 1] for each in rest["inputs"] + rest["outputs"])


def test_id_version_and_requested_outputs_are_those_of_the_protocol(client: httpx.Client) -> None:
    answer = client.post(
        "/v2/models/churn/versions/1/infer",
        json={"id": "mine", "inputs": [KEY], "outputs": [{"name": "churn_probability"}]},
    ).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "churn", "1")
    assert [(output["name"], output["shape"]) for output in answer["outputs"]] == [("churn_probability", [1, 1])]
    without_id = [client.post("/v2/models/churn/infer", json={"inputs": [KEY]}).json()["id"] for _ in range(3)]
    assert len(set(without_id)) == 3


def test_grpc_answers_in_the_form_it_was_asked(server: Server) -> None:
    typed = pb.ModelInferRequest(model_name="churn", id="typed")
    typed.inputs.add(name="customer_id", datatype="INT64", shape=[1]).contents.int64_contents.append(42)
    raw = pb.ModelInferRequest(model_name="churn", id="raw", raw_input_contents=[(42).to_bytes(8, "little")])
    raw.inputs.add(name="customer_id", datatype="INT64", shape=[1])
    with grpc.insecure_channel(server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        one, other = stub.ModelInfer(typed, timeout=GUARD_S), stub.ModelInfer(raw, timeout=GUARD_S)
        # MLServer's streams carry plain responses, where Triton's wrap them.
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        streamed = list(stream(iter([typed, raw]), timeout=GUARD_S))
    assert not one.raw_output_contents
    assert len(other.raw_output_contents) == 2
    assert one.outputs[1].contents.bytes_contents == [b"store"]
    assert [answer.id for answer in streamed] == ["typed", "raw"]


def test_openapi_and_docs_are_served(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert {"/predict", "/v2/models/churn/infer"} <= set(document["paths"])
    page = client.get("/docs")
    assert page.status_code == 200
    assert "content-security-policy" in page.headers
    assert client.get("/docs/swagger-ui.css").headers["content-type"].startswith("text/css")


def test_every_request_is_counted_once_with_its_route_and_code(client: httpx.Client, server: Server) -> None:
    def counts() -> dict[tuple[str, str], float]:
        return {
            (route, code): server.samples("serving_request_seconds_count", route=route, code=code)
            for route in ("predict", "v2_rest", "v2_grpc")
            for code in ("200", "404", "422", "413")
        }

    before = counts()
    fetches = server.samples("serving_feature_fetch_seconds_count", store="sqlite")
    hits, scores = server.samples("serving_feature_rows_total", outcome="hit"), server.samples("serving_score_count")
    client.post("/predict", json={"customer_id": 42})
    client.post("/predict", json={"customer_id": 10**9})
    client.post("/predict", json={"customer_id": -1})
    client.post("/predict", content=b" " * 100_000)
    client.post("/v2/models/churn/infer", json={"inputs": [KEY]})
    client.post("/v2/models/churn/infer", json={"inputs": [KEY], "parameters": {}})  # answered by MLServer's route
    client.post("/v2/models/churn/infer", content=b"{broken")
    nobody = server.samples("serving_refused_total", code="unknown_model")
    client.post("/v2/models/nobody/infer", json={"inputs": [KEY]})
    assert server.samples("serving_refused_total", code="unknown_model") == nobody + 1
    with grpc.insecure_channel(server.grpc) as channel:
        request = pb.ModelInferRequest(model_name="churn")
        request.inputs.add(name="customer_id", datatype="INT64", shape=[2]).contents.int64_contents.extend([1, 2])
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=GUARD_S)
    after = counts()
    grown = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    assert grown == {
        ("predict", "200"): 1, ("predict", "404"): 1, ("predict", "422"): 1, ("predict", "413"): 1,
        ("v2_rest", "200"): 2, ("v2_rest", "422"): 1, ("v2_grpc", "200"): 1,
    }  # fmt: skip
    assert server.samples("serving_feature_fetch_seconds_count", store="sqlite") == fetches + 5
    assert server.samples("serving_feature_rows_total", outcome="hit") == hits + 5
    assert server.samples("serving_score_count") == scores + 5
    assert server.samples("serving_inflight") == 0


def test_the_series_are_those_of_the_design_and_an_unknown_model_adds_none(
    client: httpx.Client, server: Server
) -> None:
    client.post("/predict", json={"customer_id": 42})
    client.post("/v2/models/invented-by-a-client/infer", json={"inputs": [KEY]})
    client.get("/v2/models/invented-by-a-client")
    text = httpx.get(server.metrics).text
    assert "invented-by-a-client" not in text
    ours = [line for line in text.splitlines() if line.startswith("serving_")]
    of_the_process = [
        line
        for line in ours
        if line.startswith(("serving_event_loop_", "serving_grpc_calls_", "serving_unauthorized_", "serving_refused_"))
    ]
    # Nobody was refused: no token is wanted here. gRPC's calls are counted apart by the engine of grpcio only.
    assert {line.split()[0] for line in of_the_process if not re.match(r"\w+_created\{|serving_refused_", line)} == {
        "serving_event_loop_tasks",
    }
    ours = [line for line in ours if line not in of_the_process]
    assert all('model="churn"' in line and 'version="1"' in line and 'predictor="local"' in line for line in ours)
    edges = {match[1] for line in ours if (match := re.match(r'serving_request_seconds_bucket\{.*le="([^"]+)"', line))}
    assert edges == {"0.001", "0.002", "0.005", "0.01", "0.02", "0.035", "0.05", "0.075", "0.1", "0.25", "1.0", "+Inf"}
    bins = {match[1] for line in ours if (match := re.match(r'serving_score_bucket\{.*le="([^"]+)"', line))}
    assert len(bins - {"+Inf"}) == len(CONTRACT.score_edges) == 20
    outcomes = {match[1] for line in ours if (match := re.search(r'outcome="(\w+)"', line))}
    assert outcomes == set(OUTCOMES)
