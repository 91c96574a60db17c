"""The parameters of a node, as Seldon hands them to its container.

A node's parameters stand in the graph of the SeldonDeployment (`parameters: [{name, value, type}]`). The operator
gives them to the container as PREDICTIVE_UNIT_PARAMETERS, JSON; without Seldon, `parameters.extra` of
model-settings.json holds them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from custom_runtime.errors import StartupError

if TYPE_CHECKING:  # importing it takes MLServer, whose protobuf types no other client may share a process with
    from mlserver.settings import ModelSettings

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
