"""The decision that follows from an observation: an action, the next state, and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rollout.engine.state import Phase, RolloutState


class Action(StrEnum):
    """The promoter's next action."""

    WAIT = "wait"
    ADVANCE = "advance"
    SCALE = "scale"
    ADOPT = "adopt"
    FINISH = "finish"
    COMPLETE = "complete"
    ROLL_BACK = "roll_back"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, the next state, and why: a CamelCase reason for programs, a sentence for people."""

    action: Action
    state: RolloutState
    reason: str
    message: str


def decided(action: Action, state: RolloutState, reason: str, message: str) -> Decision:
    """Return the decision. The reason and the message are also written to the next state."""
    return Decision(action, state.but(reason=reason, message=message), reason, message)


def wait(state: RolloutState, reason: str, message: str) -> Decision:
    """Continue as before, and end a hold or a pause."""
    return decided(Action.WAIT, state.running(), reason, message)


def hold(state: RolloutState, reason: str, message: str) -> Decision:
    """Leave the weights as they are until the cause goes away."""
    return decided(Action.WAIT, state.but(phase=Phase.HELD), reason, message)


def pause(state: RolloutState, reason: str, message: str) -> Decision:
    """Leave the weights as they are until a person runs `promote`."""
    return decided(Action.WAIT, state.but(phase=Phase.PAUSED), reason, message)


def roll_back(state: RolloutState, reason: str, message: str) -> Decision:
    """Give all requests to the stable predictor again."""
    return decided(Action.ROLL_BACK, state.but(phase=Phase.ROLLING_BACK), reason, message)


def advance(state: RolloutState, step: int) -> Decision:
    """Set the canary's weight to that of a step."""
    now = state.plan.steps[step]
    percent = now.weight_percent
    reason = "Baking" if step == state.plan.last else "WeightsRaised" if percent else "TrialBegins"
    message = f"{percent} % to {state.canary}, {100 - percent} % to {state.stable}"
    if now.mirror_percent:
        message = (
            f"{now.mirror_percent} % of the requests are copied to {state.canary}; {state.stable} answers all of them"
        )
    elif not percent:
        message = f"{now.title}: {state.canary} is checked at 0 %"
    return decided(Action.ADVANCE, state.at_step(step), reason, message)
