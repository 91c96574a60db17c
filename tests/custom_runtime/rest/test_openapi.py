"""The document derives from the contract, is valid OpenAPI 3.1, and its examples are accepted by what it describes."""

from typing import Any, cast

import jsonschema
import pytest
import schemathesis

from custom_runtime.active import CONTRACT
from custom_runtime.contract import ChurnInput, ChurnPrediction
from custom_runtime.errors import ServingError
from custom_runtime.rest.openapi import build_openapi, infer_example

DOCUMENT = build_openapi("churn", "7")
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = [(path, verb, item[verb]) for path, item in DOCUMENT["paths"].items() for verb in item]


def validator(schema: Any) -> Any:
    root = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(root)


def test_document_is_valid_openapi_3_1() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    operations = [cast(Any, result).ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
    assert len(operations) == len(OPERATIONS) == 6


def test_document_names_the_model_that_is_served() -> None:
    document = build_openapi("retention", "12")
    assert "/v2/models/retention/infer" in document["paths"]
    assert document["info"]["version"] == "12"
    assert not [path for path in document["paths"] if "churn" in path]


@pytest.mark.parametrize("feature", CONTRACT.features, ids=lambda feature: feature.name)
def test_every_feature_shows_its_unit_range_and_example(feature: Any) -> None:
    described = SCHEMAS["ChurnInput"]["properties"][feature.name]
    assert described["examples"] == [feature.example]
    if feature.is_category:
        assert described["enum"] == list(feature.categories)
    else:
        assert described["unit"] == feature.unit
        assert f"Unit: {feature.unit}." in described["description"]
        assert (described["minimum"], described["maximum"]) == (feature.minimum, feature.maximum)


def test_only_the_key_is_required() -> None:
    assert SCHEMAS["ChurnInput"]["required"] == [CONTRACT.key]
    assert set(SCHEMAS["ChurnPrediction"]["required"]) == set(ChurnPrediction.model_fields)


def test_predict_examples_are_accepted_by_the_contract_and_by_the_schema() -> None:
    body = DOCUMENT["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        ChurnInput.model_validate(example["value"])
        validator("ChurnInput").validate(example["value"])
    assert set(body["examples"]["request"]["value"]) == {CONTRACT.key, *(feature.name for feature in CONTRACT.features)}


def test_answers_shown_as_examples_match_their_schemas() -> None:
    for _, _, operation in OPERATIONS:
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                name = content["schema"]["$ref"].rpartition("/")[2]
                shown = (
                    [content["example"]] if "example" in content else [e["value"] for e in content["examples"].values()]
                )
                for example in shown:
                    validator(name).validate(example)


def test_infer_example_matches_its_schema_and_a_misused_tensor_does_not() -> None:
    validator("InferenceRequest").validate(infer_example())
    misused = infer_example()
    misused["inputs"][0]["datatype"] = "BYTES"
    assert not validator("InferenceRequest").is_valid(misused)
    unknown = infer_example()
    unknown["inputs"][1]["name"] = "shoe_size"
    assert not validator("InferenceRequest").is_valid(unknown)


def test_scoring_routes_document_every_error_a_caller_can_meet() -> None:
    for path, verb, operation in OPERATIONS:
        if verb == "post":
            assert {"404", "413", "422", "503", "504"} <= operation["responses"].keys(), path
            assert "Retry-After" in operation["responses"]["503"]["headers"]


def test_error_codes_are_those_of_the_error_tree() -> None:
    assert set(SCHEMAS["Error"]["properties"]["code"]["enum"]) >= {
        error.code for error in ServingError.__subclasses__()
    }
    shown = DOCUMENT["paths"]["/predict"]["post"]["responses"]["503"]["content"]["application/json"]["examples"]
    assert set(shown) == {"store_unavailable", "overloaded", "not_ready"}


def test_server_address_is_relative_so_that_a_path_prefix_holds() -> None:
    assert [server["url"] for server in DOCUMENT["servers"]] == ["."]
