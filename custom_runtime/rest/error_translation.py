"""The errors of MLServer, FastAPI and Starlette -> the errors of our table."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from mlserver.errors import MLServerError, ModelNotFound, ModelNotReady
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from custom_runtime.errors import (
    MOST_PROBLEMS,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    NotReady,
    ServingError,
    UnknownModel,
    listed,
    quoted,
)
from custom_runtime.protocol.mlserver_messages import render

log = structlog.get_logger()

# What the fast routes say with their errors, too.
_GUARDS = {"X-Content-Type-Options": "nosniff"}


def unify_errors(app: Any) -> None:
    """Give every error of MLServer's own routes the body and the status of our table."""

    async def refuse(_request: Request, error: Exception) -> Response:
        body, status, headers = render(translate(error))
        return Response(body, status, headers | _GUARDS, "application/json")

    for kind in (MLServerError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refuse)


def translate(error: Exception) -> ServingError:
    """Return the error of our table for one that MLServer, FastAPI or Starlette raised."""
    if isinstance(error, HTTPException):
        if error.status_code == MethodNotAllowed.status:
            return MethodNotAllowed("this path does not answer that method")
        if error.status_code == NotFound.status:
            return NotFound("no such path; GET /docs lists what there is")
        # FastAPI says "there was an error parsing the body" of whatever stopped the reading.
        return error.__cause__ if isinstance(error.__cause__, ServingError) else InvalidInput(str(error.detail))
    if isinstance(error, ModelNotFound):
        return UnknownModel(str(error))
    if isinstance(error, ModelNotReady):
        return NotReady(str(error))
    refused = getattr(error, "error", None)
    if isinstance(refused, ServingError):
        return refused
    problems = getattr(error, "errors", None)
    if problems is not None:
        found = problems()
        return InvalidInput(listed([_explain(problem) for problem in found[:MOST_PROBLEMS]], len(found)))
    if isinstance(error, MLServerError) and error.status_code < Internal.status:
        return InvalidInput(str(error))
    log.error("request_failed", route="mlserver", exc_info=error)
    return Internal()


def _explain(problem: Any) -> str:
    if problem["type"] == "json_invalid":
        return f"the body is not JSON ({problem['ctx']['error']})"
    place = ".".join(str(part) for part in problem["loc"] if part != "body") or "the body"
    return f"{place} is {quoted(problem.get('input'))}; {problem['msg']}"
