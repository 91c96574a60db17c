"""The node `join` (COMBINER): the scores of several branches -> one score.

Seldon's executor posts the array of the branches' V2 responses, in the graph's order, to `/v2/models/<node>/aggregate`,
which MLServer does not have: a custom route adds it. The executor calls a combiner only when every branch has answered
with 200. A branch that can be down without failing the request runs in `branch.Branch`, which answers "unavailable".

    mean       the mean of the branches' probabilities
    weighted   sum(w_i p_i) / sum(w_i)
    stacked    1 / (1 + exp(-(b + sum(c_i logit(p_i))))), a logistic regression on the branches' log-odds (Wolpert 1992,
               "Stacked generalization"); coefficients in a JSON file that `churn-serving stack` writes
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import structlog
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.handlers import custom_handler
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, InferenceResponse
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from custom_runtime.errors import BadRequest, InvalidInput, Overloaded, StartupError
from custom_runtime.graph.node import NodeParameters, answer_json, read_parameters
from custom_runtime.graph.tensors import BranchScores, read_branch
from custom_runtime.settings import ServingSettings

log = structlog.get_logger()

# A probability of exactly 0 or 1 has no log-odds.
_LEAST = 1e-7


class JoinParameters(NodeParameters):
    """How the branches' scores become one.

    weights: weighted only, a JSON object, branch -> weight. model: stacked only, the file of the coefficients.
    output: the name of the answer's tensor. when_missing: what an unavailable branch means; `others` joins the
    remaining ones, at least `least_branches` of them.
    """

    join: Literal["mean", "weighted", "stacked"] = "mean"
    weights: Json[dict[str, float]] | None = None
    model: Path | None = None
    output: str = "score"
    when_missing: Literal["error", "others"] = "error"
    least_branches: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.join == "weighted") != (self.weights is not None):
            raise ValueError('`weights` belongs to join: weighted, and is needed there, e.g. {"a": 0.7, "b": 0.3}')
        if self.weights is not None and (min(self.weights.values(), default=0) < 0 or sum(self.weights.values()) <= 0):
            raise ValueError("weights must not be negative, and their sum must be positive")
        if (self.join == "stacked") != (self.model is not None):
            raise ValueError("`model` belongs to join: stacked, and is needed there")
        if self.join == "stacked" and self.when_missing == "others":
            raise ValueError("a stacked model needs every branch; allowed with join: mean or weighted")
        return self


class Stack(BaseModel):
    """A logistic regression on log-odds. coefficients: branch -> coefficient."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    coefficients: dict[str, float] = Field(min_length=1)
    intercept: float
    source: str = ""


class JoinNode(MLModel):  # type: ignore[misc]
    """Combines the responses of its children."""

    def __init__(self, settings: ModelSettings) -> None:
        self.parameters = read_parameters(JoinParameters, settings)
        self._stack = None if self.parameters.model is None else read_stack(self.parameters.model)
        self._limit_bytes = ServingSettings().max_body_bytes
        super().__init__(settings)

    async def load(self) -> bool:
        """Nothing is loaded: parameters and coefficients were read at the start."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Refuse: a combiner is called at its own route."""
        raise InferenceError(f"{self.name} is a combiner; POST the responses to /v2/models/{self.name}/aggregate")

    @custom_handler(rest_path="/v2/models/{node}/aggregate")  # type: ignore[untyped-decorator]
    async def aggregate(self, request: Request) -> Response:
        """Join the responses of the children."""
        return await answer_json(request, self._limit_bytes, self._join)

    async def _join(self, responses: Any) -> dict[str, Any]:
        if not isinstance(responses, list) or not responses:
            raise BadRequest("the body is no array of V2 responses; Seldon's executor sends one for a combiner")
        started = time.perf_counter()
        branches = [read_branch(response, position) for position, response in enumerate(responses)]
        scores, missing = combine(branches, self.parameters, self._stack)
        log.debug("joined", branches=len(branches), missing=missing, seconds=time.perf_counter() - started)
        answer: dict[str, Any] = {
            "model_name": self.name,
            "id": next((one["id"] for one in responses if isinstance(one, Mapping) and one.get("id")), None),
            "outputs": [
                {
                    "name": self.parameters.output,
                    "datatype": "FP64",
                    "shape": list(scores.shape),
                    "data": scores.ravel().tolist(),
                }
            ],
        }
        if missing:
            answer["parameters"] = {"missing_branches": ", ".join(missing)}
        return {key: value for key, value in answer.items() if value is not None}


def read_stack(path: Path) -> Stack:
    """Read the coefficients. Raises StartupError."""
    try:
        return Stack.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StartupError(
            f"stacked model {path} cannot be read: {error}; write it with churn-serving stack"
        ) from error


def combine(
    branches: Sequence[BranchScores], parameters: JoinParameters, stack: Stack | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Return the joined scores, float64 [n, classes] (one column for a binary model), and the unavailable branches.

    Two columns of one branch are the probabilities of both classes: the last one is taken. Raises InvalidInput when the
    branches do not fit together, Overloaded (503) when too many of them are unavailable.
    """
    names = [branch.name for branch in branches]
    if len(set(names)) != len(names):
        raise InvalidInput(f"two branches have the same name: {', '.join(names)}")
    missing = [branch.name for branch in branches if branch.scores is None]
    present = {branch.name: _last_of_two(branch.scores) for branch in branches if branch.scores is not None}
    if missing and (parameters.when_missing == "error" or len(present) < parameters.least_branches):
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in branches if one.scores is None)
        allowed = parameters.least_branches if parameters.when_missing == "others" else len(branches)
        raise Overloaded(f"{len(present)} of {len(branches)} branches answered, {allowed} are needed ({reasons})")
    shapes = {name: scores.shape for name, scores in present.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InvalidInput(f"the branches answered different shapes: {listed}")
    if stack is not None:
        return _stacked(present, stack), missing
    weights = [1.0 if parameters.weights is None else _weight(parameters.weights, name) for name in present]
    if sum(weights) <= 0:
        raise Overloaded(f"the branches that answered ({', '.join(present)}) have no weight")
    return np.average(np.stack(list(present.values())), axis=0, weights=weights), missing


def _last_of_two(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores[:, 1:] if scores.shape[1] == 2 else scores


def _weight(weights: Mapping[str, float], name: str) -> float:
    if name not in weights:
        raise InvalidInput(f"branch {name!r} has no weight; the weights name: {', '.join(weights)}")
    return weights[name]


def _stacked(present: Mapping[str, NDArray[np.float64]], stack: Stack) -> NDArray[np.float64]:
    if set(present) != set(stack.coefficients):
        raise InvalidInput(
            f"the branches are {', '.join(sorted(present))}; "
            f"the stacked model knows {', '.join(sorted(stack.coefficients))}"
        )
    log_odds = np.full_like(next(iter(present.values())), stack.intercept)
    for name, coefficient in stack.coefficients.items():
        scores = present[name]
        if scores.shape[1] != 1 or scores.min() < 0 or scores.max() > 1:
            raise InvalidInput(f"branch {name!r} answered no probabilities of one class; a stacked model needs them")
        clipped = np.clip(scores, _LEAST, 1 - _LEAST)
        log_odds += coefficient * np.log(clipped / (1 - clipped))
    return np.asarray(1 / (1 + np.exp(-log_odds)))
