"""V2 bodies of real clients, read as JSON."""

import json

from custom_runtime.protocol import v2_json


def test_the_models_name_in_the_body_is_read_over() -> None:
    key = {"name": "customer_id", "shape": [1], "datatype": "INT64", "data": [42]}
    request = v2_json.read_request(json.dumps({"id": "a", "model_name": "churn", "inputs": [key]}).encode())
    assert request is not None
    assert (request.id, request.tensors[0].data) == ("a", [42])
