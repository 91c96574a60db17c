"""The annotations of the SeldonDeployment that a rollout lives in: its state, a person's word, the version before.

The state is written in the same patch as the weights, so the two never disagree; every write carries a new nonce and a
`test` for the text that was read, so a promoter that was overtaken is refused by the API server itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rollout.errors import PlanError, StateError
from rollout.plan import Plan
from rollout.state import Phase, RolloutState, Timers

PREFIX = "rollout.churn-serving"
STATE = f"{PREFIX}/state"
PREVIOUS = f"{PREFIX}/previous"
COMMAND = f"{PREFIX}/command"
SCHEMA = 1


def plain_json(data: Mapping[str, Any]) -> str:
    r"""Return compact JSON without a character that two JSON writers escape differently.

    An API server compares the strings of a `test` byte by byte, in the form in which Go wrote them: there `<` is
    \u003c, and a letter beyond ASCII is itself, where Python writes it the other way round.
    """
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode(state: RolloutState) -> str:
    """Return the annotation's text."""
    data = {name: getattr(state, name) for name in state.__slots__ if name not in ("plan", "timers")}
    return plain_json(
        {
            "schema": SCHEMA,
            "plan_hash": state.plan.hash,
            "plan": state.plan.to_json(),
            "timers": {name: round(getattr(state.timers, name), 3) for name in Timers.__slots__},
        }
        | data
    )


def decode(text: str) -> RolloutState:
    """Read what `encode` wrote. Raises StateError."""
    try:
        data = json.loads(text)
        if data.pop("schema") != SCHEMA:
            raise StateError(f"the annotation {STATE} was written by another release of this program")
        plan = Plan.from_json(data.pop("plan"))
        recorded = data.pop("plan_hash")
        if plan.hash != recorded:
            raise StateError(f"the plan in {STATE} was edited: its hash is {plan.hash}, {recorded} was recorded")
        return RolloutState(**data | {"plan": plan, "timers": Timers(**data["timers"]), "phase": Phase(data["phase"])})
    except (PlanError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(
            f"the annotation {STATE} cannot be read: {error}; put back what was there, or remove it to forget the "
            "rollout (the weights then stay as they are)"
        ) from error


def read_state(annotations: Mapping[str, str]) -> RolloutState | None:
    """Return the rollout that the annotations describe, or None. Raises StateError when it cannot be read."""
    text = annotations.get(STATE)
    return None if text is None else decode(text)
