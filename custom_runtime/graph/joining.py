"""What the node `join` (COMBINER) computes: the scores of several branches -> one score. Pure.

mean       the mean of the branches' probabilities
weighted   sum(w_i p_i) / sum(w_i)
stacked    1 / (1 + exp(-(b + sum(c_i logit(p_i))))), a logistic regression on the branches' log-odds (Wolpert 1992,
"Stacked generalization"); coefficients in a JSON file that `churn-serving stack` writes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, model_validator

from custom_runtime.errors import InvalidInput, Overloaded, StartupError
from custom_runtime.graph.parameters import NodeParameters
from custom_runtime.graph.tensors import BranchScores

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
    total = np.full_like(next(iter(present.values())), stack.intercept)
    for name, coefficient in stack.coefficients.items():
        scores = present[name]
        if scores.shape[1] != 1 or scores.min() < 0 or scores.max() > 1:
            raise InvalidInput(f"branch {name!r} answered no probabilities of one class; a stacked model needs them")
        total += coefficient * log_odds(scores)
    return np.asarray(1 / (1 + np.exp(-total)))


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of probabilities, kept off 0 and 1."""
    clipped = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped / (1 - clipped)))
