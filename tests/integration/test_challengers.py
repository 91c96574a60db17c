"""Challengers of a real server that fail or are slow: the answers are the champion's, and do not wait for them."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from custom_runtime.model.bundle import read_bundle, write_bundle
from custom_runtime.model.encoding import WIDTH
from custom_runtime.records.segments import read_records
from tests.support.programs import GUARD_S, eventually
from tests.support.serving import World, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KEY, PROBABILITY = "customer_id", "churn_probability"
REQUESTS = 300
UNITS, LAYERS = 2_000, 40  # 0.3 billion operations a row: several ms on one core


def write_challenger(world: World, directory: Path, version: str, *nodes: onnx.NodeProto, **constants: object) -> Path:
    """Write a bundle of the champion's contract whose graph is these nodes, from `rows` to `scores`."""
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", WIDTH])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1])
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "challenger", [rows], [scores], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    champion = read_bundle(world.bundle)
    write_bundle(
        directory,
        {"onnx": model.SerializeToString()},
        name=champion.name,
        version=version,
        run_id="",
        source="test",
        flavor="onnx",
        defaults=champion.defaults,
        parity=champion.parity,
    )
    return directory


def failing(world: World, directory: Path) -> Path:
    """A model that can be loaded, and fails for every row of a customer: it looks beyond the end of a table."""
    return write_challenger(
        world, directory, "fails",
        helper.make_node("ReduceMax", ["rows"], ["greatest"], axes=[1], keepdims=0),
        helper.make_node("Cast", ["greatest"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "place"], ["scores"]),
        table=np.zeros((1, 1), np.float32),
    )  # fmt: skip


def slow(world: World, directory: Path) -> Path:
    layers = [helper.make_node("MatMul", [f"layer{place}", "layer"], [f"layer{place + 1}"]) for place in range(LAYERS)]
    return write_challenger(
        world, directory, "slow",
        helper.make_node("MatMul", ["rows", "first"], ["layer0"]),
        *layers,
        helper.make_node("ReduceMean", [f"layer{LAYERS}"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["mean"], ["scores"]),
        first=np.zeros((WIDTH, UNITS), np.float32), layer=np.zeros((UNITS, UNITS), np.float32),
    )  # fmt: skip


def test_a_challenger_that_fails_or_is_slow_touches_no_answer(world: World, tmp_path: Path) -> None:
    challengers = failing(world, tmp_path / "fails"), slow(world, tmp_path / "slow")
    environment = world.environment | {
        "SERVING_RECORDS": f"file://{tmp_path}/records",
        "SERVING_RECORD_KEY": "plain",
        "SERVING_RECORD_FLUSH_S": "0.1",
        "SERVING_CHALLENGERS": ",".join(map(str, challengers)),
    }
    stored = np.load(world.expected)
    ids, champion = stored["ids"][:REQUESTS].tolist(), stored["champion"][:REQUESTS]
    with (
        serving(environment, tmp_path / "log") as running,
        httpx.Client(base_url=running.rest, timeout=GUARD_S) as client,
    ):
        answers = [client.post("/predict", json={KEY: key}) for key in ids]
        scored = running.samples("serving_challenger_rows_total", challenger="slow", outcome="scored")
        assert scored < REQUESTS  # the last answer was there before the slow challenger had all rows
        assert {answer.status_code for answer in answers} == {200}
        scores = [answer.json()[PROBABILITY] for answer in answers]
        np.testing.assert_allclose(scores, champion, rtol=0, atol=1e-5)
        assert eventually(lambda: running.samples("serving_records_total", outcome="written") == REQUESTS)
        rows = "serving_challenger_rows_total"
        assert running.samples(rows, challenger="fails", outcome="failed") == REQUESTS
        assert running.samples(rows, challenger="slow", outcome="scored") == REQUESTS
    records = read_records(tmp_path / "records").to_pylist()
    assert {record["key"]: record["score"] for record in records} == dict(zip(map(str, ids), scores, strict=True))
    assert {tuple(one["version"] for one in record["challengers"]) for record in records} == {("slow",)}
    said = (tmp_path / "log").read_text()
    assert said.count("challenger_failed") == 1
