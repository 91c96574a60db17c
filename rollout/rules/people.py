"""The rules on what a person said."""

from __future__ import annotations

from rollout.decision import Decision, advance, pause, roll_back
from rollout.seen import Seen
from rollout.state import Command, Phase, RolloutState


def aborted(state: RolloutState, seen: Seen) -> Decision | None:
    """Roll back when told to."""
    if seen.command is not Command.ABORT:
        return None
    return roll_back(state, "Aborted", "a person aborted the rollout")


def told(state: RolloutState, seen: Seen) -> Decision | None:
    """Pause, or go straight to the last step, when told to."""
    if seen.command is Command.PAUSE:
        return pause(state, "Paused", "a person paused the rollout; open with `promote`")
    if seen.command is Command.PROMOTE_FULL and state.step < state.plan.last:
        return advance(state.but(analyse=False), state.plan.last)
    return None


def paused(state: RolloutState, seen: Seen) -> Decision | None:
    """Keep a person's pause until a person opens it."""
    if state.phase is not Phase.PAUSED or state.reason != "Paused" or seen.opens:
        return None
    return pause(state, state.reason, state.message)
