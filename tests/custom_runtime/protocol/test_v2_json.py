"""V2 bodies of real clients, read as JSON."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.prediction.query import Prediction
from custom_runtime.protocol import v2, v2_json


def test_the_models_name_in_the_body_is_read_over() -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
    request = v2_json.read_request(json.dumps({"id": "a", "model_name": "churn", "inputs": [key]}).encode())
    assert request is not None
    assert (request.id, request.tensors[0].data) == ("a", [42])


@given(
    st.text(),
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=3),
    st.sampled_from([[], ["churn_probability"], ["features", "churn_probability"]]),
)
def test_an_answer_is_what_a_serializer_makes_of_its_fields(
    request_id: str, scores: list[float], names: list[str]
) -> None:
    prediction = Prediction(scores, [0] * len(scores))
    requested = v2.check_outputs(names)
    request = v2_json.InferRequest(request_id, (), requested, frozenset(), None)
    body, json_bytes = v2_json.render("100 %d", "1%", request, prediction)
    assert json_bytes is None
    assert body == orjson.dumps({
        "model_name": "100 %d", "model_version": "1%", "id": request_id, "parameters": {},
        "outputs": v2.encode_outputs(prediction, requested),
    })  # fmt: skip


@pytest.mark.parametrize("extra", [{"parameters": None}, {"outputs": []}, {"parameters": {}}])
def test_a_bare_request_is_read_as_one_that_says_nothing_more(extra: dict[str, object]) -> None:
    key = {"name": "customer_id", "shape": [1, 1], "datatype": "INT64", "data": [42]}
    bare = v2_json.read_request(json.dumps({"id": "", "inputs": [key]}).encode())
    longer = v2_json.read_request(json.dumps({"id": "", "inputs": [key], **extra}).encode())
    assert bare is not None
    assert bare.id == ""
    assert bare == longer
