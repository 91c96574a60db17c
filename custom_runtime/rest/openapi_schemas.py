"""The schemas of the OpenAPI document: contract models, V2 bodies, and one error body per status; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from custom_runtime.active import CONTRACT
from custom_runtime.errors import ServingError
from custom_runtime.model.encoding import WIDTH
from custom_runtime.protocol import explanations
from custom_runtime.schema import CATEGORY_DATATYPE, NUMERIC_DATATYPES, Feature

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/{model}"


class TensorMetadata(BaseModel):
    """One input or output of a model."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What `GET /v2/models/<name>` answers."""

    name: str
    platform: str
    versions: list[str] = Field(default_factory=list)
    inputs: list[TensorMetadata] = Field(default_factory=list)
    outputs: list[TensorMetadata] = Field(default_factory=list)


def build_schemas() -> Json:
    """Return `components.schemas`: name -> JSON schema (2020-12), all of it from Pydantic models."""
    any_input: Any = Union[tuple(tensor for tensor in _input_tensors() if tensor is not None)]  # noqa: UP007
    names = [output.name for output in CONTRACT.outputs]
    datatypes = {output.datatype for output in CONTRACT.outputs} | set(explanations.OUTPUTS.values())
    shapes = ", ".join(f"`{output.name}` [n, {output.columns}]" for output in CONTRACT.outputs)
    output: Any = _tensor(
        "OutputTensor",
        [*names, *explanations.OUTPUTS],
        sorted(datatypes),
        Any,
        f"One result: {shapes}; of an explanation also [n, {WIDTH}] or [n, explain].",
    )
    text = (str, "")
    parameters: Any = (dict[str, Any], Field(default_factory=dict))
    asked: Any = (
        dict[str, Any],
        Field(
            default_factory=dict,
            description=f"`{explanations.PARAMETER}`: {explanations.ALLOWED}. `timeout`: microseconds.",
        ),
    )
    request = create_model(
        "InferenceRequest",
        id=text,
        parameters=asked,
        inputs=(Annotated[list[any_input], Field(min_length=1)], ...),
        outputs=(list[dict[str, Any]], Field(default_factory=list)),
    )
    response = create_model(
        "InferenceResponse",
        model_name=(str, ...),
        model_version=text,
        id=text,
        parameters=parameters,
        outputs=(list[output], ...),
    )
    codes = _one_of(error.code for error in _tree(ServingError))
    error = create_model(
        "Error",
        error=(str, Field(description="What happened, the value received, what is allowed.")),
        code=(codes, Field(description="Stable, for programs.")),
    )
    explained = _explained_prediction()
    models: list[type[BaseModel]] = [CONTRACT.prediction, explained, request, response, ModelMetadata, error]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
    return {CONTRACT.input.__name__: _with_units(CONTRACT.input), **schemas["$defs"]}


def _input_tensors() -> Iterator[type[BaseModel] | None]:
    """Yield a model for each kind of input tensor that the contract has: the key, numbers, categories."""
    key = CONTRACT.key_field
    if key is not None:
        item: Any = Annotated[int, Field(ge=key.minimum, le=key.maximum)]
        if key.is_text:
            item = Annotated[str, Field(min_length=1, max_length=key.longest)]
        yield _tensor("KeyTensor", [key.name], [key.datatype], item, "The keys of the rows to score: [n] or [n, 1].")
    for title, kind, datatypes, of in (
        ("NumericTensor", False, NUMERIC_DATATYPES, float | bool),
        ("CategoryTensor", True, [CATEGORY_DATATYPE], str),
    ):
        features = [feature for feature in CONTRACT.features if feature.is_category is kind]
        names = [feature.name for feature in features]
        item = of | None if any(feature.nullable for feature in features) else of
        yield _tensor(title, names, datatypes, item, _allowed(features)) if names else None


def _explained_prediction() -> type[BaseModel]:
    """Return the model of a prediction that may have an explanation."""
    number = (float, ...)
    contribution = create_model(
        "Contribution",
        __doc__="What one feature, with its value, adds to the log-odds.",
        feature=(_one_of(feature.name for feature in CONTRACT.features), ...),
        value=(float | str | None if any(feature.nullable for feature in CONTRACT.features) else float | str, ...),
        contribution=number,
    )
    explanation = create_model(
        "Explanation",
        __doc__="base_value + every contribution (+ others) = log_odds, the logit of the probability.",
        base_value=(float, Field(description="The log-odds before any feature is known.")),
        log_odds=number,
        contributions=(list[contribution], Field(description="The largest first, whatever their sign.")),
        others=(float, Field(default=0.0, description="The sum of the contributions that are not listed.")),
    )
    # Left out where it was not asked for, and never null: the schema shows no default.
    optional = Field(None, json_schema_extra=_drop_default)
    return create_model("ExplainedPrediction", __base__=CONTRACT.prediction, explanation=(explanation, optional))


def _drop_default(schema: Json) -> None:
    schema.pop("default", None)


def _with_units(model: type[BaseModel]) -> Json:
    schema = model.model_json_schema()
    if CONTRACT.key is None:
        schema["required"] = list(model.model_fields)
    for field in schema["properties"].values():
        # Swagger UI shows descriptions, not keywords of our own: the unit has to stand in both.
        if unit := field.get("unit"):
            field["description"] = f"{field['description']} Unit: {unit}."
    return schema


def reference(schema: str) -> Json:
    """Return a reference to one of the document's schemas."""
    return {"$ref": _REFERENCE.format(model=schema)}


def _tensor(title: str, names: Sequence[str], datatypes: Sequence[str], item: Any, description: str) -> type[BaseModel]:
    """Return the model of a V2 tensor whose name and datatype are among the given ones."""
    sizes = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2)]
    datatypes = list(dict.fromkeys(datatypes))
    return create_model(
        title,
        __doc__=description,
        name=(_one_of(names), ...),
        shape=(sizes, ...),
        datatype=(_one_of(datatypes), ...),
        parameters=(dict[str, Any], Field(default_factory=dict)),
        data=(list[item | list[item]], Field(description="Flat, or one list per row.")),
    )


def _one_of(values: Iterable[str]) -> Any:
    return Literal[tuple(values)]


def _allowed(features: list[Feature]) -> str:
    return "\n".join(f"- `{feature.name}`: {feature.allowed}" for feature in features)


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
