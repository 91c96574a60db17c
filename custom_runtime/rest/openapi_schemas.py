"""The schemas of the OpenAPI document: the contract's models, the V2 protocol's bodies and the error body; pure.

What the OpenAPI document says of bodies: those asked with, those answered with, and one for each error's status.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_origin

from pydantic import BaseModel

from custom_runtime.contract import FEATURES, KEY, KEY_MAXIMUM, ChurnInput, ChurnPrediction
from custom_runtime.errors import ServingError
from custom_runtime.schema import CATEGORY_DATATYPE, NUMERIC_DATATYPES, Feature

Json = dict[str, Any]


def build_schemas() -> Json:
    """Return `components.schemas`: name -> JSON schema (2020-12)."""
    numbers = [feature for feature in FEATURES if not feature.is_category]
    categories = [feature for feature in FEATURES if feature.is_category]
    key = {"type": "integer", "minimum": 0, "maximum": KEY_MAXIMUM}
    inputs = {
        "KeyTensor": _tensor([KEY], ["INT64"], key, "The customers to score: [n] or [n, 1]."),
        "NumericTensor": _tensor(
            [f.name for f in numbers], list(NUMERIC_DATATYPES), {"type": "number"}, _allowed(numbers)
        ),
        "CategoryTensor": _tensor(
            [f.name for f in categories], [CATEGORY_DATATYPE], {"type": "string"}, _allowed(categories)
        ),
    }
    inputs = {name: tensor for name, tensor in inputs.items() if tensor["properties"]["name"]["enum"]}
    names, datatypes = zip(*output_tensors(), strict=True)
    output = _tensor(list(names), list(datatypes), {}, "One result, [n, 1].")
    tensors = {"type": "array", "minItems": 1, "items": {"anyOf": [reference(name) for name in inputs]}}
    text = {"type": "string"}
    described = {"type": "array", "items": reference("TensorMetadata")}
    return {
        "ChurnInput": _with_units(ChurnInput),
        "ChurnPrediction": ChurnPrediction.model_json_schema(),
        "InferenceRequest": _object(
            ["inputs"], id=text, parameters={"type": "object"}, inputs=tensors, outputs={"type": "array"}
        ),
        **inputs,
        "InferenceResponse": _object(
            ["model_name", "outputs"],
            model_name=text,
            model_version=text,
            id=text,
            parameters={"type": "object"},
            outputs={"type": "array", "items": reference("OutputTensor")},
        ),
        "OutputTensor": output,
        "ModelMetadata": _object(
            ["name", "platform"],
            name=text,
            versions={"type": "array", "items": text},
            platform=text,
            inputs=described,
            outputs=described,
        ),
        "TensorMetadata": _object(
            ["name", "datatype", "shape"],
            name=text,
            datatype=text,
            shape={"type": "array", "items": {"type": "integer"}},
        ),
        "Error": _object(
            ["error", "code"],
            error=text | {"description": "What happened, the value received, what is allowed."},
            code=text | {"description": "Stable, for programs.", "enum": [error.code for error in _tree(ServingError)]},
        ),
    }


def _with_units(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema()
    for field in schema["properties"].values():
        # Swagger UI shows descriptions, not keywords of our own: the unit has to stand in both.
        if unit := field.get("unit"):
            field["description"] = f"{field['description']} Unit: {unit}."
    return schema


def output_tensors() -> Iterator[tuple[str, str]]:
    """Yield (name, V2 datatype) of what a batch returns of a prediction: its numbers and its categories.

    Key and version stand elsewhere in a V2 answer.
    """
    for name, field in ChurnPrediction.model_fields.items():
        if field.annotation is float:
            yield name, "FP64"
        elif get_origin(field.annotation) is Literal:
            yield name, CATEGORY_DATATYPE


def reference(schema: str) -> Json:
    """Return a reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{schema}"}


def _tensor(names: list[str], datatypes: list[str], item: Json, description: str) -> Json:
    values = {"anyOf": [item, {"type": "array", "items": item}]}
    return _object(
        ["name", "shape", "datatype", "data"],
        name={"type": "string", "enum": names},
        shape={"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        datatype={"type": "string", "enum": datatypes},
        parameters={"type": "object"},
        data={"type": "array", "items": values, "description": "Flat, or one list per row."},
    ) | {"description": description}


def _allowed(features: list[Feature]) -> str:
    return "\n".join(f"- `{feature.name}`: {feature.allowed}" for feature in features)


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _tree(error: type[ServingError]) -> Iterator[type[ServingError]]:
    if error is not ServingError:
        yield error
    for child in error.__subclasses__():
        yield from _tree(child)


def request_body(schema: str, examples: Json) -> Json:
    """Return a required JSON request body."""
    return {"required": True, "content": {"application/json": {"schema": reference(schema), "examples": examples}}}


def success(description: str, schema: Json, example: Json) -> Json:
    """Return a JSON answer that succeeds."""
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


def failures(*errors: type[ServingError]) -> Json:
    """Group the errors by HTTP status; each error is a named example of its status's body."""
    answers: Json = {}
    for error in errors:
        status = str(error.status)
        summary = (error.__doc__ or "").strip()
        if status not in answers:
            content = {"application/json": {"schema": reference("Error"), "examples": {}}}
            answers[status] = {"description": summary, "content": content}
        else:
            answers[status]["description"] += f" {summary}"
        examples = answers[status]["content"]["application/json"]["examples"]
        examples[error.code] = {"value": {"error": summary, "code": error.code}}
        if error.retry_after_s is not None:
            answers[status]["headers"] = {
                "Retry-After": {"description": "When to try again, in seconds.", "schema": {"type": "integer"}}
            }
    return answers
