"""The OpenAPI 3.1 document of the service, derived from the contract and the error tree; pure.

Every path is relative to where the document itself is served, so that it holds behind `/seldon/<namespace>/<name>/`.
"""

from __future__ import annotations

from custom_runtime.contract import FEATURES, KEY, ChurnPrediction
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
    UnknownCustomer,
    UnknownModel,
)
from custom_runtime.model.encoding import WIDTH
from custom_runtime.protocol import explanations
from custom_runtime.rest.openapi_schemas import (
    Json,
    build_schemas,
    failures,
    output_tensors,
    reference,
    request_body,
    success,
)

SCORING_ERRORS = (InvalidInput, TooLarge, StoreUnavailable, Overloaded, NotReady, DeadlineExceeded, Internal)
PREDICTION_EXAMPLE = {name: field.examples[0] for name, field in ChurnPrediction.model_fields.items() if field.examples}
KEY_EXAMPLE = PREDICTION_EXAMPLE[KEY]


def build_openapi(model_name: str, version: str) -> Json:
    """Return the document for one served model: `model_name` as in V2 paths, `version` of the registered model."""
    model = f"/v2/models/{model_name}"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model_name} model server",
            "version": version,
            "description": "Scores one customer (`/predict`) or a batch (the V2 inference protocol). "
            f"Only `{KEY}` is required: features that a request leaves out come from the feature store.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": ".", "description": "this server, below whatever path leads to it"}],
        "tags": [
            {"name": "predict", "description": "One customer, plain JSON."},
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
    """Return a V2 request for two customers in which one feature is given and the others are fetched."""
    given = next((feature for feature in FEATURES if not feature.is_category), FEATURES[0])
    return {
        "id": "request-1",
        "inputs": [
            {"name": KEY, "shape": [2], "datatype": "INT64", "data": [KEY_EXAMPLE, KEY_EXAMPLE + 1]},
            {"name": given.name, "shape": [2], "datatype": given.datatype, "data": [given.example] * 2},
        ],
    }


def _predict() -> Json:
    numbers = [feature for feature in FEATURES if not feature.is_category]
    examples = {
        "stored": ("every feature from the feature store", {}),
        "what-if": ("some features given, the rest from the store", {f.name: f.example for f in numbers[:2]}),
        "request": ("every feature given: nothing is fetched", {f.name: f.example for f in FEATURES}),
    }
    return {
        "tags": ["predict"],
        "operationId": "predict",
        "summary": "Score one customer",
        "parameters": [
            {
                "name": explanations.PARAMETER,
                "in": "query",
                "description": "Explain the score: so many features are listed with their values and what they add to "
                "the log-odds, the largest contribution first.",
                "schema": {"type": "integer", "minimum": 1, "maximum": WIDTH},
                "example": 5,
                "allowEmptyValue": False,
            }
        ],
        "requestBody": request_body(
            "ChurnInput",
            {
                name: {"summary": summary, "value": {KEY: KEY_EXAMPLE, **given}}
                for name, (summary, given) in examples.items()
            },
        ),
        "responses": {
            "200": success(
                "The prediction; with its explanation where it was asked for",
                reference("ExplainedPrediction"),
                PREDICTION_EXAMPLE,
            ),
            **failures(UnknownCustomer, MethodNotAllowed, NotExplainable, *SCORING_ERRORS),
        },
    }


def _infer(model_name: str, version: str) -> Json:
    rows = infer_example()["inputs"][0]["shape"][0]
    answer = {
        "model_name": model_name,
        "model_version": version,
        "id": "request-1",
        "outputs": [
            {"name": name, "shape": [rows, 1], "datatype": datatype, "data": [PREDICTION_EXAMPLE[name]] * rows}
            for name, datatype in output_tensors()
        ],
    }
    return {
        "tags": ["v2"],
        "operationId": "infer",
        "summary": "Score a batch",
        "description": f"The input `{KEY}` is required; any feature may be given as a further input with as many rows. "
        "A row's unknown customer refuses the whole batch. "
        f"The parameter `{explanations.PARAMETER}` adds the outputs that explain each row: "
        f"{', '.join(f'`{name}`' for name in explanations.BY_PARAMETER)}. The output `{explanations.CONTRIBUTIONS}` is "
        f"FP32 [n, {WIDTH}], what each feature adds to the log-odds, in the contract's order.",
        "requestBody": request_body(
            "InferenceRequest",
            {
                "batch": {"summary": "two customers, one feature given", "value": infer_example()},
                "explained": {
                    "summary": "the same, with the three largest contributions to each score",
                    "value": {**infer_example(), "parameters": {explanations.PARAMETER: 3}},
                },
            },
        ),
        "responses": {
            "200": success("One row per customer, in the order asked for", reference("InferenceResponse"), answer),
            **failures(UnknownCustomer, UnknownModel, MethodNotAllowed, NotExplainable, *SCORING_ERRORS),
        },
    }


def _metadata(model_name: str, version: str) -> Json:
    inputs = [{"name": KEY, "datatype": "INT64", "shape": [-1, 1]}]
    inputs += [{"name": feature.name, "datatype": feature.datatype, "shape": [-1, 1]} for feature in FEATURES]
    example = {
        "name": model_name,
        "versions": [version],
        "platform": "",
        "inputs": inputs,
        "outputs": [{"name": name, "datatype": datatype, "shape": [-1, 1]} for name, datatype in output_tensors()],
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
