"""What follows from an observation of a rollout: an action, the next state, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rollout.engine.state import Phase, RolloutState


class Action(StrEnum):
    """What the promoter does next."""

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
    """What to do, the state that follows, and why: a CamelCase word for programs, a sentence for people."""

    action: Action
    state: RolloutState
    reason: str
    message: str


def decided(action: Action, state: RolloutState, reason: str, message: str) -> Decision:
    """Return the decision; the reason and the message are written to the next state, too."""
    return Decision(action, state.but(reason=reason, message=message), reason, message)


def wait(state: RolloutState, reason: str, message: str) -> Decision:
    """Go on as before; a hold or a pause is over."""
    return decided(Action.WAIT, state.running(), reason, message)


def hold(state: RolloutState, reason: str, message: str) -> Decision:
    """Leave the weights as they are until the cause goes away."""
    return decided(Action.WAIT, state.but(phase=Phase.HELD), reason, message)


def pause(state: RolloutState, reason: str, message: str) -> Decision:
    """Leave the weights as they are until a person runs `promote`."""
    return decided(Action.WAIT, state.but(phase=Phase.PAUSED), reason, message)


def roll_back(state: RolloutState, reason: str, message: str) -> Decision:
    """Give the stable predictor everything again."""
    return decided(Action.ROLL_BACK, state.but(phase=Phase.ROLLING_BACK), reason, message)


def advance(state: RolloutState, step: int) -> Decision:
    """Give the canary the weight of a step."""
    percent = state.plan.steps[step].weight_percent
    reason = "Baking" if step == state.plan.last else "WeightsRaised"
    message = f"{percent} % to {state.canary}, {100 - percent} % to {state.stable}"
    return decided(Action.ADVANCE, state.at_step(step), reason, message)
