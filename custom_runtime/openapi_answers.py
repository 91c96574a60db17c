"""What the OpenAPI document says of bodies: those asked with, those answered with, and one for each error's status."""

from __future__ import annotations

from custom_runtime.errors import ServingError
from custom_runtime.openapi_schemas import Json, reference


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
