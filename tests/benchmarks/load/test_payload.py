import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from benchmarks.errors import UsageError
from benchmarks.load.target import Protocol, key_bodies, parse_keys, path_of, v2_grpc_message, v2_rest_body


@given(st.integers(0, 2**63 - 1), st.text("abcdefghij-", min_size=1, max_size=300))
def test_the_protobuf_encoder_agrees_with_generated_code(customer: int, model: str) -> None:
    message = service_pb2.ModelInferRequest.FromString(v2_grpc_message(model, "customer_id", "INT64", [customer]))
    (tensor,) = message.inputs
    assert message.model_name == model
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("customer_id", "INT64", [1, 1])
    assert list(tensor.contents.int64_contents) == [customer]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=200))
def test_a_feature_vector_arrives_as_float32(row: list[float]) -> None:
    message = service_pb2.ModelInferRequest.FromString(v2_grpc_message("m", "features", "FP32", row))
    assert list(message.inputs[0].contents.fp32_contents) == row
    assert list(message.inputs[0].shape) == [1, len(row)]


def test_rest_bodies_ask_for_one_customer_each() -> None:
    assert json.loads(key_bodies(Protocol.PREDICT, "churn", [42])[0]) == {"customer_id": 42}
    (tensor,) = json.loads(key_bodies(Protocol.V2_REST, "churn", [42])[0])["inputs"]
    assert tensor == {"name": "customer_id", "shape": [1, 1], "datatype": "INT64", "data": [42]}
    assert json.loads(v2_rest_body("customer_id", "INT64", [1, 2], rows=2))["inputs"][0]["shape"] == [2, 1]


def test_the_v2_path_names_the_model() -> None:
    assert path_of(Protocol.V2_REST, "churn-v8") == "/v2/models/churn-v8/infer"


@pytest.mark.parametrize(("text", "first", "count"), [("1-7043", 1, 7043), ("42", 42, 1)])
def test_keys_are_a_range(text: str, first: int, count: int) -> None:
    keys = parse_keys(text)
    assert (keys[0], len(keys)) == (first, count)


@pytest.mark.parametrize("text", ["", "a", "1-", "-5", "9-1", "1,2"])
def test_a_range_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="keys"):
        parse_keys(text)
