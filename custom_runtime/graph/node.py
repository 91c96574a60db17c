"""What every node shares: its parameters, as Seldon hands them to the container, and its answers over HTTP.

A node's parameters stand in the graph of the SeldonDeployment (`parameters: [{name, value, type}]`). The operator
gives them to the container as PREDICTIVE_UNIT_PARAMETERS, JSON; without Seldon, `parameters.extra` of
model-settings.json holds them. The executor passes a node's error on to the caller as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import structlog
from mlserver.settings import ModelSettings
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from custom_runtime.errors import BadRequest, Internal, ServingError, StartupError
from custom_runtime.protocol.mlserver_messages import body_of, render

log = structlog.get_logger()

PARAMETERS = "PREDICTIVE_UNIT_PARAMETERS"
_CONVERSIONS: Mapping[str, Callable[[str], Any]] = {
    "STRING": str,
    "INT": int,
    "FLOAT": float,
    "DOUBLE": float,
    "BOOL": lambda text: text.strip().lower() == "true",
}

Parameters = TypeVar("Parameters", bound="NodeParameters")


class NodeParameters(BaseModel):
    """The parameters of one node; an unknown one stops the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_parameters(kind: type[Parameters], settings: ModelSettings) -> Parameters:
    """Return the node's parameters. Raises StartupError naming the parameter, its value and what is allowed."""
    found: dict[str, Any] = dict((settings.parameters and settings.parameters.extra) or {})
    text = os.environ.get(PARAMETERS, "")
    if text:
        try:
            found |= {
                one["name"]: _CONVERSIONS[one.get("type", "STRING")](str(one["value"])) for one in json.loads(text)
            }
        except (ValueError, KeyError, TypeError) as error:
            raise StartupError(
                f"{PARAMETERS} is {text!r}, which cannot be read ({error!r}); allowed: a JSON array of objects with "
                f"name, value and type ({', '.join(_CONVERSIONS)})"
            ) from error
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'parameters'} is {problem['input']!r}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise StartupError(f"node {settings.name!r}: {problems}") from error


async def answer_json(request: Request, limit_bytes: int, work: Callable[[Any], Awaitable[Any]]) -> Response:
    """Answer a custom route: JSON body -> `work` -> JSON body; an error becomes its status and {"error", "code"}."""
    headers: dict[str, str] = {}
    try:
        body = await body_of(request, limit_bytes)
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON ({error})") from error
        content, status = json.dumps(await work(payload)).encode(), 200
    except ServingError as error:
        content, status, headers = render(error)
    except Exception:
        log.exception("request_failed", route=request.url.path)
        content, status, headers = render(Internal())
    return Response(content, status, headers, "application/json")
