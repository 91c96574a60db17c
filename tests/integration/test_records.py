"""A running server that records what it predicts: all transports, both gRPC engines, a challenger, a broken sink."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pyarrow as pa
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import decode_row
from custom_runtime.records.record import key_hash
from custom_runtime.records.segments import OPEN, read_records
from tests.support.event_sink import event_receiver
from tests.support.programs import GUARD_S, eventually
from tests.support.serving import Server, World, assert_refuses_to_start, serving

pytestmark = pytest.mark.integration

KEY, PROBABILITY = "customer_id", "churn_probability"
SALT = "a salt of the tests"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = {"traceparent": TRACEPARENT}
MANY = 1_000  # rows: sliced on the worker thread


class Recording(NamedTuple):
    server: Server
    directory: Path

    def wait(self, count: int = 1, **values: object) -> list[dict[str, Any]]:
        """Wait for so many records with these values."""

        def found() -> list[dict[str, Any]]:
            if not list(self.directory.glob(f"*{OPEN}")):
                return []
            return chosen(read_records(self.directory), **values)

        return eventually(found, lambda records: len(records) >= count, every_s=0.1)


def chosen(table: pa.Table, **values: object) -> list[dict[str, Any]]:
    return [record for record in table.to_pylist() if all(record[name] == value for name, value in values.items())]


def make_challenger(world: World, directory: Path, *, version: str = "8", **fields: str) -> Path:
    """A bundle like the champion's, of another version."""
    shutil.copytree(world.bundle, directory)
    manifest = directory / "bundle.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": version} | fields))
    return directory


@pytest.fixture(
    scope="module",
    params=["http2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("grpcio", "mlserver_routes"))],
)
def recording(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recording]:
    folder = tmp_path_factory.mktemp(request.param)
    environment = world.environment | {
        "SERVING_RECORDS": f"file://{folder}/records",
        "SERVING_RECORD_SALT": SALT,
        "SERVING_RECORD_FEATURES": "1",
        "SERVING_RECORD_FLUSH_S": "0.1",
        "SERVING_CHALLENGERS": str(make_challenger(world, folder / "bundle-8")),
        "SERVING_GRPC_ENGINE": "grpcio" if request.param == "grpcio" else "http2",
        "SERVING_FAST_ROUTES": "0" if request.param == "mlserver_routes" else "1",
    }
    with serving(environment, folder / "log") as running:
        yield Recording(running, folder / "records")


@pytest.fixture(scope="module")
def expected(world: World) -> dict[int, tuple[np.ndarray[Any, Any], float]]:
    """Customer -> feature row and the registered model's own probability."""
    known = np.load(world.expected)
    return dict(zip(known["ids"].tolist(), zip(known["rows"], known["champion"].tolist(), strict=True), strict=True))


def v2_body(ids: list[int], **fields: object) -> dict[str, object]:
    tensor = {"name": KEY, "datatype": "INT64", "shape": [len(ids), 1], "data": ids}
    return {"inputs": [tensor], **fields}


def check(record: dict[str, Any], expected: Any, *, source: str = "store") -> None:
    row, score = expected
    assert record["score"] == pytest.approx(score, abs=1e-5)
    assert record["challengers"] == [{"version": "8", "score": pytest.approx(score, abs=1e-5), "scores": None}]
    assert record["source"] == source
    assert 0 < record["latency_ms"] < 30_000
    assert (record["model"], record["predictor"], record["contract"]) == ("churn", "local", CONTRACT.fingerprint)
    for name, value in decode_row(row).items():
        assert record["features"][name] == (value if isinstance(value, str) else pytest.approx(value))


def test_predict(recording: Recording, expected: Any) -> None:
    answer = httpx.post(
        f"{recording.server.rest}/predict", json={KEY: 42}, headers=HEADERS | {"x-request-id": "predict-1"}
    )
    assert answer.status_code == 200
    (record,) = recording.wait(request_id="predict-1")
    check(record, expected[42])
    assert record["score"] == answer.json()[PROBABILITY]
    assert record["version"] == answer.json()["model_version"]
    assert (record["inference_id"], record["row"], record["traceparent"]) == (None, 0, TRACEPARENT)
    assert (record["key"], record["key_hash"]) == (None, key_hash(SALT, 42))
    assert record["features_time"] is not None


def test_v2_rest(recording: Recording, expected: Any) -> None:
    url = f"{recording.server.rest}/v2/models/churn/infer"
    named = httpx.post(url, json=v2_body([1, 2], id="rest-a"))
    assert named.status_code == 200, named.text
    records = recording.wait(2, request_id="rest-a")
    assert [record["row"] for record in records] == [0, 1]
    for record, customer in zip(records, (1, 2), strict=True):
        check(record, expected[customer])
    # Without an id and a header, the record has the id that the answer carries.
    (record,) = recording.wait(request_id=httpx.post(url, json=v2_body([3])).json()["id"])
    check(record, expected[3])
    # What only MLServer's own route answers is recorded too.
    unusual = httpx.post(url, json=v2_body([4], id="rest-b", parameters={"headers": {}}), headers=HEADERS)
    assert unusual.status_code == 200, unusual.text
    (record,) = recording.wait(inference_id="rest-b")
    check(record, expected[4])
    assert record["traceparent"] == TRACEPARENT


def test_a_big_batch(recording: Recording, expected: Any) -> None:
    ids = list(range(1, MANY + 1))
    answer = httpx.post(
        f"{recording.server.rest}/v2/models/churn/infer",
        json=v2_body(ids, id="big"),
        headers=HEADERS | {"x-request-id": "big-1"},
        timeout=GUARD_S,
    )
    assert answer.status_code == 200, answer.text
    records = recording.wait(MANY, request_id="big-1")
    assert [record["row"] for record in records] == list(range(MANY))
    assert {record["inference_id"] for record in records} == {"big"}
    scores = next(output["data"] for output in answer.json()["outputs"] if output["name"] == PROBABILITY)
    assert [record["score"] for record in records] == scores
    check(records[700], expected[701])


def test_grpc(recording: Recording, expected: Any) -> None:
    request = pb.ModelInferRequest(model_name="churn", id="grpc-a")
    request.inputs.add(name=KEY, datatype="INT64", shape=[1, 1]).contents.int64_contents.append(42)
    many = pb.ModelInferRequest(model_name="churn", id="grpc-b")
    ids = list(range(1, MANY + 1))
    many.inputs.add(name=KEY, datatype="INT64", shape=[MANY, 1]).contents.int64_contents.extend(ids)
    streamed = pb.ModelInferRequest(model_name="churn", id="grpc-c")
    streamed.inputs.extend(request.inputs)
    with grpc.insecure_channel(recording.server.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        metadata = (("traceparent", TRACEPARENT), ("x-request-id", "grpc-1"))
        stub.ModelInfer(request, metadata=metadata, timeout=GUARD_S)
        stub.ModelInfer(many, timeout=GUARD_S)
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        assert len(list(stream(iter([streamed]), timeout=GUARD_S))) == 1
    (record,) = recording.wait(request_id="grpc-1")
    check(record, expected[42])
    assert (record["inference_id"], record["traceparent"]) == ("grpc-a", TRACEPARENT)
    records = recording.wait(MANY, request_id="grpc-b")
    check(records[5], expected[6])
    (record,) = recording.wait(request_id="grpc-c")
    check(record, expected[42])


def test_given_features_and_refused_requests(recording: Recording, expected: Any) -> None:
    row, _ = expected[42]
    given = decode_row(row)
    url, headers = f"{recording.server.rest}/predict", {"x-request-id": "given-1"}
    assert httpx.post(url, json={KEY: 42, **given}, headers=headers).status_code == 200
    (record,) = recording.wait(request_id="given-1")
    check(record, expected[42], source="request")
    assert record["features_time"] is None
    unknown = 10**12
    assert httpx.post(url, json={KEY: unknown}, headers={"x-request-id": "unknown-1"}).status_code == 404
    assert httpx.post(url, json={KEY: 43}, headers={"x-request-id": "after-1"}).status_code == 200
    recording.wait(request_id="after-1")
    assert chosen(read_records(recording.directory), request_id="unknown-1") == []


def test_everything_is_counted(recording: Recording) -> None:
    server = recording.server
    for customer in range(1, 21):
        assert httpx.post(f"{server.rest}/predict", json={KEY: customer}).status_code == 200
    scored = server.samples("serving_score_count")
    assert eventually(lambda: server.samples("serving_records_total", outcome="written") == scored)
    assert server.samples("serving_records_total", outcome="dropped") == 0
    assert server.samples("serving_challenger_rows_total", challenger="8", outcome="scored") == scored


@pytest.mark.slow
def test_after_kill_9_the_next_process_finishes_the_segment(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "records"
    environment = world.environment | {
        "SERVING_RECORDS": f"file://{directory}",
        "SERVING_RECORD_KEY": "plain",
        "SERVING_RECORD_FLUSH_S": "0.1",
    }
    with serving(environment, tmp_path / "log") as running:
        for customer in range(1, 31):
            assert httpx.post(f"{running.rest}/predict", json={KEY: customer}).status_code == 200
        assert eventually(lambda: running.samples("serving_records_total", outcome="written") == 30)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
    assert [path.suffix for path in directory.iterdir()] == [OPEN]
    assert sorted(read_records(directory)["key"].to_pylist(), key=int) == [str(key) for key in range(1, 31)]
    with serving(environment, tmp_path / "log2") as running:
        assert httpx.post(f"{running.rest}/predict", json={KEY: 31}).status_code == 200
    assert {path.suffix for path in directory.iterdir()} == {".parquet"}  # SIGTERM finished the second one
    assert sorted(read_records(directory)["key"].to_pylist(), key=int) == [str(key) for key in range(1, 32)]


def test_a_sink_that_is_down_delays_no_answer_and_gets_the_events_later(world: World, tmp_path: Path) -> None:
    with event_receiver() as receiver:
        receiver.answers = [503] * 3
        environment = world.environment | {
            "SERVING_RECORDS": receiver.url,
            "SERVING_RECORD_SALT": SALT,
            "SERVING_RECORD_SPOOL": str(tmp_path / "spool"),
            "SERVING_RECORD_FLUSH_S": "0.1",
        }
        with serving(environment, tmp_path / "log") as running:
            answers = [
                httpx.post(f"{running.rest}/predict", json={KEY: customer}, headers={"x-request-id": f"r-{customer}"})
                for customer in range(1, 21)
            ]
            assert {answer.status_code for answer in answers} == {200}
            assert eventually(lambda: len(receiver.events) == 20)
            assert eventually(lambda: running.samples("serving_records_total", outcome="written") == 20)
        scores = {event["requestid"]: event["data"]["outputs"][0]["data"][0] for event in receiver.events}
        assert scores == {f"r-{n}": answer.json()[PROBABILITY] for n, answer in enumerate(answers, 1)}
        assert {event["data"]["parameters"]["key_hash"] for event in receiver.events} == {
            key_hash(SALT, customer) for customer in range(1, 21)
        }


@pytest.mark.slow
def test_a_challenger_of_another_contract_is_refused_at_the_start(world: World, tmp_path: Path) -> None:
    records = world.environment | {"SERVING_RECORDS": f"file://{tmp_path}/records", "SERVING_RECORD_KEY": "plain"}
    other = make_challenger(world, tmp_path / "other", contract_fingerprint="0" * 64)
    assert_refuses_to_start(records | {"SERVING_CHALLENGERS": str(other)}, "was made for contract 0000")
    assert_refuses_to_start(world.environment | {"SERVING_CHALLENGERS": str(other)}, "SERVING_RECORDS is not")
