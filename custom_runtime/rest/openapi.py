"""The OpenAPI 3.1 document of the service, derived from the contract and the error tree; pure.

Every path is relative to where the document itself is served, so that it holds behind `/seldon/<namespace>/<name>/`.
"""

from __future__ import annotations

from typing import Any

from custom_runtime.active import CONTRACT
from custom_runtime.errors import (
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    NotExplainable,
    NotReady,
    Overloaded,
    ServingError,
    StoreUnavailable,
    TooLarge,
    UnknownKey,
    UnknownModel,
)
from custom_runtime.model.encoding import WIDTH
from custom_runtime.protocol import explanations
from custom_runtime.rest.openapi_schemas import (
    Json,
    build_schemas,
    failures,
    reference,
    request_body,
    success,
)
from custom_runtime.schema import Feature, Key, Output

_REQUIRED = (
    "Every feature is required."
    if CONTRACT.key is None
    else f"Only `{CONTRACT.key}` is required: features that a request leaves out come from the feature store."
)
SCORING_ERRORS = (InvalidInput, TooLarge, StoreUnavailable, Overloaded, NotReady, DeadlineExceeded, Internal)
FEATURES = CONTRACT.features
KEY = CONTRACT.key_field
PREDICTION_EXAMPLE = {
    name: field.examples[0] for name, field in CONTRACT.prediction.model_fields.items() if field.examples
}
_BATCH_INPUTS = (
    "Every feature is an input, all with the same number of rows."
    if KEY is None
    else f"The input `{KEY.name}` is required; any feature may be given as a further input with as many rows. "
    "One unknown key refuses the whole batch."
)
_KEY_EXAMPLE = {} if KEY is None else {KEY.name: KEY.example}
_WHOLE_ROW = {feature.name: feature.example for feature in FEATURES}


def build_openapi(model_name: str, version: str) -> Json:
    """Return the document for one served model: `model_name` as in V2 paths, `version` of the registered model."""
    model = f"/v2/models/{model_name}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model_name} model server",
            "version": version,
            "description": f"Scores one row (`/predict`) or a batch (the V2 inference protocol). {_REQUIRED}",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": ".", "description": "this server, below whatever path leads to it"}],
        "tags": [
            {"name": "predict", "description": "One row, plain JSON."},
            {"name": "v2", "description": "The V2 inference protocol: batches and metadata."},
            {"name": "health", "description": "Probes."},
        ],
        "paths": {
            "/predict": {"post": _predict()},
            f"{model}/infer": {"post": _infer(model_name, version)},
            model: {"get": _metadata(model_name, version)},
            f"{model}/ready": {
                "get": _probe("modelReady", "Whether this model answers requests", UnknownModel, NotReady)
            },
            "/v2/health/live": {"get": _probe("serverLive", "Whether the process is alive")},
            "/v2/health/ready": {"get": _probe("serverReady", "Whether the server takes requests", NotReady)},
        },
        "components": {"schemas": build_schemas()},
    }


def infer_example() -> Json:
    """Return a V2 request of two rows: by key, with one feature given, or with every feature where there is no key."""
    given = [next((feature for feature in FEATURES if not feature.is_category), FEATURES[0])] if KEY else FEATURES
    inputs: list[Json] = []
    if KEY is not None:
        keys = [KEY.example, KEY.example if isinstance(KEY.example, str) else KEY.example + 1]
        inputs.append({"name": KEY.name, "shape": [2], "datatype": KEY.datatype, "data": keys})
    inputs += [
        {"name": feature.name, "shape": [2], "datatype": feature.datatype, "data": [feature.example] * 2}
        for feature in given
    ]
    return {"id": "request-1", "inputs": inputs}


def _flat_example(output: Output) -> list[Any]:
    example = output.example
    if isinstance(example, dict):
        return list(example.values())
    return list(example) if isinstance(example, list | tuple) else [example]


def _predict() -> Json:
    numbers = [feature for feature in FEATURES if not feature.is_category]
    examples = {"request": ("every feature given: nothing is fetched", _WHOLE_ROW)}
    if KEY is not None:
        examples = {
            "stored": ("every feature from the feature store", {}),
            "what-if": ("some features given, the rest from the store", {f.name: f.example for f in numbers[:2]}),
        } | examples
    return {
        "tags": ["predict"],
        "operationId": "predict",
        "summary": "Score one row",
        "parameters": [
            {
                "name": explanations.PARAMETER,
                "in": "query",
                "description": "Explain the score: so many features are listed with their values and what they add to "
                "the log-odds, the largest contribution first.",
                "schema": {"type": "integer", "minimum": 1, "maximum": WIDTH},
                "allowEmptyValue": False,
            }
        ],
        "requestBody": request_body(
            CONTRACT.input.__name__,
            {
                name: {"summary": summary, "value": {**_KEY_EXAMPLE, **given}}
                for name, (summary, given) in examples.items()
            },
        ),
        "responses": {
            "200": success(
                "The prediction; with its explanation where it was asked for",
                reference("ExplainedPrediction"),
                PREDICTION_EXAMPLE,
            ),
            **failures(UnknownKey, MethodNotAllowed, NotExplainable, *SCORING_ERRORS),
        },
    }


def _infer(model_name: str, version: str) -> Json:
    rows = infer_example()["inputs"][0]["shape"][0]
    answer = {
        "model_name": model_name,
        "model_version": version,
        "id": "request-1",
        "outputs": [
            {
                "name": output.name,
                "shape": [rows, output.columns],
                "datatype": output.datatype,
                "data": _flat_example(output) * rows,
            }
            for output in CONTRACT.outputs
        ],
    }
    return {
        "tags": ["v2"],
        "operationId": "infer",
        "summary": "Score a batch",
        "description": f"{_BATCH_INPUTS} The parameter `{explanations.PARAMETER}` adds the outputs that explain "
        "each row: "
        f"{', '.join(f'`{name}`' for name in explanations.BY_PARAMETER)}. The output `{explanations.CONTRIBUTIONS}` is "
        f"FP32 [n, {WIDTH}], what each feature adds to the log-odds, in the contract's order.",
        "requestBody": request_body(
            "InferenceRequest",
            {
                "batch": {"summary": "two rows", "value": infer_example()},
                "explained": {
                    "summary": "the same, with the three largest contributions to each score",
                    "value": {**infer_example(), "parameters": {explanations.PARAMETER: 3}},
                },
            },
        ),
        "responses": {
            "200": success("One row for each row of the request, in its order", reference("InferenceResponse"), answer),
            **failures(UnknownKey, UnknownModel, MethodNotAllowed, NotExplainable, *SCORING_ERRORS),
        },
    }


def _metadata(model_name: str, version: str) -> Json:
    fields: list[Key | Feature] = [*([] if KEY is None else [KEY]), *FEATURES]
    inputs = [{"name": field.name, "datatype": field.datatype, "shape": [-1, 1]} for field in fields]
    example = {
        "name": model_name,
        "versions": [version],
        "platform": "",
        "inputs": inputs,
        "outputs": [
            {"name": output.name, "datatype": output.datatype, "shape": [-1, output.columns]}
            for output in CONTRACT.outputs
        ],
    }
    return {
        "tags": ["v2"],
        "operationId": "modelMetadata",
        "summary": "The model's inputs and outputs",
        "responses": {
            "200": success("The model's metadata", reference("ModelMetadata"), example),
            **failures(UnknownModel, MethodNotAllowed),
        },
    }


def _probe(operation: str, summary: str, *errors: type[ServingError]) -> Json:
    return {
        "tags": ["health"],
        "operationId": operation,
        "summary": summary,
        "responses": {"200": {"description": "yes"}, **failures(*errors, MethodNotAllowed)},
    }
