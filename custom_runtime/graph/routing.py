"""What the node `route` (ROUTER) decides: one child for a request.

Seldon's executor posts the message to `/v2/models/<node>/route` (a custom route; MLServer has none) and reads a bare
`[n]`: the number of the child. A whole request goes to one child. The message is the caller's request where the router
is the root, and otherwise what the node above answered, with `outputs`.

    share      child i with the probability shares[i]
    feature    the first child whose limit is above the value of a feature; the last child otherwise
    thompson   the child with the largest draw from Beta(1 + good, 1 + bad) (Thompson 1933); the counts come from a
               file, read again when it changes, because the executor has no feedback under the V2 protocol
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from custom_runtime.errors import InvalidInput, StartupError, quoted
from custom_runtime.graph.parameters import NodeParameters
from custom_runtime.graph.tensors import FEATURES, read_matrix, tensors_of
from custom_runtime.model.encoding import POSITIONS
from custom_runtime.repeated_failure import RepeatedFailure

log = structlog.get_logger()


class RouteParameters(NodeParameters):
    """How a child is chosen.

    children: JSON array, the children's names in the graph's order. shares: JSON array, one number for each child.
    feature, limits: the feature's name, and a JSON array of rising limits, one fewer than there are children.
    rewards: the file of the counts, {"child": {"good": 12, "bad": 3}}.
    """

    route: Literal["share", "feature", "thompson"]
    children: Json[list[str]] = Field(min_length=2)
    shares: Json[list[float]] | None = None
    feature: str | None = None
    limits: Json[list[float]] | None = None
    rewards: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {name for name in ("shares", "feature", "limits", "rewards") if getattr(self, name) is not None}
        wanted = {"share": {"shares"}, "feature": {"feature", "limits"}, "thompson": {"rewards"}}[self.route]
        if given != wanted:
            raise ValueError(
                f"route: {self.route} needs {', '.join(sorted(wanted))}; given: {', '.join(sorted(given)) or 'none'}"
            )
        count = len(self.children)
        if len(set(self.children)) != count:
            raise ValueError(f"two children have the same name: {', '.join(self.children)}")
        if self.shares is not None and (len(self.shares) != count or min(self.shares) < 0 or sum(self.shares) <= 0):
            raise ValueError(f"shares must be {count} numbers, none negative, with a positive sum")
        if self.limits is not None and (len(self.limits) != count - 1 or sorted(self.limits) != self.limits):
            raise ValueError(f"limits must be {count - 1} rising numbers")
        if self.feature is not None and self.feature not in POSITIONS:
            raise ValueError(f"no feature {self.feature!r}; allowed: {', '.join(POSITIONS)}")
        return self


class Counts(BaseModel):
    """Labels of one child's predictions. good, bad: how many were right and wrong (or 1 - loss and loss, summed)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    good: float = Field(0.0, ge=0)
    bad: float = Field(0.0, ge=0)


class Rewards:
    """The counts per child, read from a file whenever its time of change is another one."""

    def __init__(self, path: Path, children: Sequence[str]) -> None:
        self._path = path
        self._children = children
        self._changed_ns = -1
        self._failure = RepeatedFailure()
        self._counts: dict[str, Counts] = {}
        self.refresh(is_first=True)

    def refresh(self, *, is_first: bool = False) -> dict[str, Counts]:
        """Return the counts. A file that cannot be read stops the start; later, the counts read last stay in force."""
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                self._changed_ns = changed_ns
                self._counts = _read_counts(self._path, self._children)
        except (OSError, ValueError) as error:
            problem = f"rewards {self._path} cannot be read: {error}"
            if is_first:
                raise StartupError(problem) from error
            if count := self._failure.count():  # a file that is not there is so for every request
                log.warning("rewards_refused", reason=problem, requests=count)
        return self._counts


def _read_counts(path: Path, children: Sequence[str]) -> dict[str, Counts]:
    class File(BaseModel):
        counts: dict[str, Counts]

    counts = File.model_validate_json(b'{"counts":' + path.read_bytes() + b"}").counts
    if unknown := sorted(set(counts) - set(children)):
        raise ValueError(f"no child is named {', '.join(unknown)}; allowed: {', '.join(children)}")
    return {name: counts.get(name, Counts()) for name in children}


def choose(message: Any, parameters: RouteParameters, counts: Mapping[str, Counts], generator: random.Random) -> int:
    """Return the number of the child. Raises InvalidInput when the message does not determine it."""
    if parameters.shares is not None:
        return generator.choices(range(len(parameters.children)), weights=parameters.shares)[0]
    if parameters.limits is not None and parameters.feature is not None:
        return _by_value(message, parameters.feature, parameters.limits)
    draws = [generator.betavariate(1 + counts[one].good, 1 + counts[one].bad) for one in parameters.children]
    return draws.index(max(draws))


def _by_value(message: Any, feature: str, limits: Sequence[float]) -> int:
    tensors = tensors_of(message)
    if feature in tensors:
        values = read_matrix(tensors[feature], f"input {quoted(feature)}")[:, 0]
    elif FEATURES in tensors:
        values = read_matrix(tensors[FEATURES], FEATURES)[:, POSITIONS[feature]]
    else:
        raise InvalidInput(
            f"the message has no tensor {feature!r} and no {FEATURES!r}; it has: {quoted(', '.join(tensors))}. "
            "Put the router below the node that fetches the features"
        )
    children = {sum(value >= limit for limit in limits) for value in values.tolist()}
    if len(children) != 1:
        raise InvalidInput(f"the rows belong to {len(children)} children by {feature!r}; send one row a request")
    return int(children.pop())
