"""V2 JSON messages between nodes: scores of a branch's response, and tensors of a request or a response.

The executor passes bodies on without parsing them: a router sees whatever the node before it answered (`outputs`), or
the caller's request (`inputs`); a combiner sees the array of its children's responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from custom_runtime.errors import BadRequest, InvalidInput, quoted

# What the node `features` answers: FP32 [n, width], in the contract's encoding.
FEATURES = "features"
# A branch that could not score says so in its response's parameters; see branch.py.
UNAVAILABLE = "unavailable"


class BranchScores(NamedTuple):
    """What one branch answered. scores: float64 [n, classes], None when it is unavailable; reason: why it is."""

    name: str
    scores: NDArray[np.float64] | None
    reason: str = ""


def read_branch(response: Any, position: int) -> BranchScores:
    """Read one child's response. Raises BadRequest, or InvalidInput when it holds no scores."""
    if not isinstance(response, Mapping):
        raise BadRequest(f"response {position} is {quoted(response)}; allowed: a V2 inference response")
    name = str(response.get("model_name") or position)
    parameters = response.get("parameters")
    reason = parameters.get(UNAVAILABLE) if isinstance(parameters, Mapping) else None
    if reason is not None:
        return BranchScores(name, None, str(reason))
    outputs = response.get("outputs")
    if not isinstance(outputs, list) or len(outputs) != 1:
        listed = [str(one.get("name")) for one in outputs] if isinstance(outputs, list) else outputs
        raise InvalidInput(f"branch {quoted(name)} answered the outputs {quoted(listed)}; allowed: one numeric output")
    values = read_matrix(outputs[0], f"branch {quoted(name)}")
    return BranchScores(name, values)


def read_matrix(tensor: Any, owner: str) -> NDArray[np.float64]:
    """Return a numeric tensor as float64 [n, columns]. Raises InvalidInput."""
    try:
        shape = [int(size) for size in tensor["shape"]]
        flat = np.asarray(tensor["data"], dtype=np.float64).ravel()
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{owner}: the tensor cannot be read as numbers ({error!r})") from error
    if len(shape) not in (1, 2) or min(shape) < 1 or int(np.prod(shape)) != flat.size:
        raise InvalidInput(f"{owner}: shape {shape} with {flat.size} values; allowed: [n] or [n, columns], n >= 1")
    matrix = flat.reshape(shape[0], -1)
    if not np.isfinite(matrix).all():
        raise InvalidInput(f"{owner}: a value is not finite")
    return matrix


def tensors_of(message: Any) -> dict[str, Any]:
    """Return the tensors of a V2 request or response by name. Raises BadRequest."""
    found = None
    if isinstance(message, Mapping):
        found = message.get("inputs", message.get("outputs"))
    if not isinstance(found, list) or not all(isinstance(one, Mapping) and "name" in one for one in found):
        raise BadRequest("the message has neither inputs nor outputs; allowed: a V2 inference request or response")
    return {str(one["name"]): one for one in found}
