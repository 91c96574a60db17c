"""V2 bodies of real clients, read as JSON."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.errors import InvalidInput
from custom_runtime.prediction.query import Prediction, Query
from custom_runtime.protocol import v2, v2_json


def test_the_models_name_in_the_body_is_read_over() -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
    request = v2_json.read_request(json.dumps({"id": "a", "model_name": "churn", "inputs": [key]}).encode())
    assert request is not None
    assert (request.id, request.query) == ("a", Query([42], {}, inference_id="a"))


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


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=3), st.booleans())
def test_a_raw_answer_is_the_values_in_little_endian_behind_the_json(scores: list[float], by_default: bool) -> None:
    key = {"name": "customer_id", "shape": [1, 1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}
    output = {"name": "churn_probability", "parameters": {"binary_data": True}}
    asked = {"parameters": {"binary_data_output": True}} if by_default else {"outputs": [output]}
    head = json.dumps({"id": "a", "inputs": [key], **asked}).encode()
    request = v2_json.read_request(head + (417).to_bytes(8, "little"), len(head))
    assert request is not None
    assert request.query == Query([417], {}, inference_id="a")
    body, json_bytes = v2_json.render("churn", "1", request, Prediction(scores, [0] * len(scores)))
    assert json_bytes is not None
    answer, *others = json.loads(body[:json_bytes])["outputs"]
    assert len(others) == by_default
    assert answer == {
        "name": "churn_probability",
        "shape": [len(scores), 1],
        "datatype": "FP64",
        "parameters": {"binary_data_size": 8 * len(scores)},
    }
    assert np.frombuffer(body[json_bytes:], "<f8", len(scores)).tolist() == scores


def test_an_output_is_raw_where_it_or_else_the_request_says_so() -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
    output = {"name": "churn_probability", "parameters": {"binary_data": False}}
    asked = {"parameters": {"binary_data_output": True}, "outputs": [output, {"name": "features"}]}
    request = v2_json.read_request(json.dumps({"inputs": [key], **asked}).encode())
    assert request is not None
    assert request.binary == {"features"}


INTEGERS = st.one_of(st.integers(-2, 2), st.integers(-(2**63), 2**63 - 1))
ODD = st.one_of(INTEGERS, st.booleans(), st.floats(), st.text(max_size=2), st.none())
SHAPES = st.one_of(st.sampled_from([[1], [1, 1]]), st.lists(ODD, max_size=3))
DATA = st.one_of(ODD.map(lambda value: [value]), ODD.map(lambda value: [[value]]), st.lists(ODD, max_size=2), ODD)
TENSORS: st.SearchStrategy[dict[str, object]] = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["customer_id", "tenure", ""]),
        "shape": SHAPES,
        "datatype": st.sampled_from(["INT64", "INT32", "FP64", "BYTES", "int64"]),
        "data": DATA,
    },
    optional={"parameters": st.sampled_from([None, {}, {"content_type": "np"}, {"content_type": 1}, {"headers": {}}])},
)


@given(TENSORS, st.sampled_from([{}, {"id": "a"}, {"id": "a", "outputs": [{"name": "features"}]}]))
def test_the_usual_request_is_read_as_its_tensor_is(tensor: dict[str, object], extra: dict[str, object]) -> None:
    body = orjson.dumps({"id": "a", "inputs": [tensor], **extra})
    request = v2_json.read_request(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(v2_json, "_only_key", lambda inputs: None)
        plain = v2_json.read_request(body)
    if request is None or plain is None or request.query is None:
        assert request == plain
        return
    assert request.query == v2.decode(plain.tensors, plain.id)
    assert request._replace(query=None, tensors=plain.tensors) == plain


RAW_KEY = {"name": "customer_id", "shape": [1, 1], "datatype": "INT64", "parameters": {"binary_data_size": 8}}
OF_RAW_KEYS: list[dict[str, object]] = [
    {},
    {"id": "a"},
    {"id": ""},
    {"id": None},
    {"id": "a", "parameters": {"binary_data_output": True, "timeout": 400_000}},
    {"outputs": [{"name": "churn_probability", "parameters": {"binary_data": True}}]},
    {"parameters": {"explain": 3}},
    {"inputs": [RAW_KEY | {"shape": [1]}]},
    {"inputs": [RAW_KEY | {"datatype": "INT32", "parameters": {"binary_data_size": 4}}]},
    {"inputs": [RAW_KEY | {"shape": [1, 1.0]}]},
    {"inputs": [RAW_KEY | {"shape": [2]}]},
    {"inputs": [RAW_KEY | {"datatype": "FP64"}]},
    {"inputs": [RAW_KEY | {"name": "tenure"}]},
    {"inputs": [RAW_KEY | {"data": [1]}]},
    {"inputs": [RAW_KEY | {"parameters": {"binary_data_size": 8.0}}]},
    {"inputs": [RAW_KEY | {"parameters": {"binary_data_size": 7}}]},
    {"inputs": [RAW_KEY, RAW_KEY]},
    {"inputs": []},
    {"inputs": {}},
    {"inputs": ["customer_id"]},
    {"outputs": [{"name": "nope"}]},
    {"parameters": {"timeout": -1}},
    {"nope": 1},
]


@pytest.mark.parametrize("said", OF_RAW_KEYS, ids=str)
@pytest.mark.parametrize("raw", [(417).to_bytes(8, "little"), (417).to_bytes(4, "little"), b"\xff" * 8, b"", b"\1" * 9])
def test_json_before_a_raw_key_means_the_same_when_it_comes_again(
    said: dict[str, object], raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = json.dumps({"inputs": [RAW_KEY], **said}).encode()
    monkeypatch.setattr(v2_json, "next_id", lambda: "made")
    v2_json._before_key.cache_clear()
    first, again = (meaning(head, raw) for _ in range(2))
    monkeypatch.setattr(v2_json, "_LONGEST_KNOWN_BYTES", 0)
    assert first == again == meaning(head, raw)


def meaning(head: bytes, raw: bytes) -> object:
    """What a request asks for, or why it is refused."""
    try:
        request = v2_json.read_request(head + raw, len(head))
        assert request is not None
        query = request.query if request.query is not None else v2.decode(request.tensors, request.id)
        return request._replace(query=query, tensors=())
    except InvalidInput as error:
        return str(error)


def test_a_request_without_an_id_gets_one_of_its_own_though_its_json_is_known() -> None:
    head = json.dumps({"inputs": [RAW_KEY]}).encode()
    ids = {v2_json.read_request(head + bytes(7) + b"\0", len(head)).id for _ in range(3)}  # type: ignore[union-attr]
    assert len(ids) == 3


def test_of_json_before_raw_keys_a_bounded_number_is_kept() -> None:
    for number in range(1_000):
        head = json.dumps({"id": str(number), "inputs": [RAW_KEY]}).encode()
        v2_json.read_request(head + bytes(8), len(head))
    long = json.dumps({"id": "a" * 2_000, "inputs": [RAW_KEY]}).encode()
    kept = v2_json._before_key.cache_info().currsize
    v2_json.read_request(long + bytes(8), len(long))
    assert v2_json._before_key.cache_info().currsize == kept <= 256
