"""The rules on the deployment itself: its pods, its weights in the mesh, and what somebody else did to it."""

from __future__ import annotations

from rollout.decision import Action, Decision, advance, decided, hold, pause, roll_back, wait
from rollout.seen import Seen
from rollout.state import Command, Phase, RolloutState


def finishing(state: RolloutState, seen: Seen) -> Decision | None:
    """Once the old predictor is deleted: wait until the mesh has forgotten it, whatever else is seen."""
    if state.phase is not Phase.FINISHING:
        return None
    if seen.ready and seen.follows:
        done = state.but(phase=Phase.SUCCEEDED)
        return decided(Action.COMPLETE, done, "Promoted", f"{state.canary} serves alone, {state.stable} is gone")
    message = f"waiting until the mesh knows {state.canary} only"
    late = state.timers.lag_s >= state.plan.mesh_deadline_s or state.timers.unready_s >= state.plan.mesh_deadline_s
    return decided(Action.LEAVE if late else Action.WAIT, state, "Finishing", message)


def foreign(state: RolloutState, seen: Seen) -> Decision | None:
    """Hold on somebody else's change until it is put back, or a person adopts it."""
    if not seen.foreign:
        return None
    if seen.command is Command.ADOPT and not seen.restarts:
        return decided(Action.ADOPT, state.running(), "Adopted", f"going on from: {seen.foreign}")
    if seen.command is Command.ADOPT:
        begun = state.at_step(-1).but(evidence={})
        return decided(Action.ADOPT, begun, "Adopted", f"beginning again at 0 %, because: {seen.foreign}")
    return hold(
        state,
        "ForeignChange",
        f"somebody else changed the deployment: {seen.foreign}. Choose: put it back (the rollout then goes on), "
        f"`resume --adopt` to go on from what is there now, or `abort` to return to {state.stable}",
    )


def pending(state: RolloutState, seen: Seen) -> Decision | None:
    """At 0 %: take the first step once the canary is ready and has a route."""
    if state.step >= 0:
        return None
    if seen.command is Command.PAUSE or (state.phase is Phase.PAUSED and not seen.opens):
        return pause(state, "Paused", f"{state.canary} stays at 0 %; open with `promote`")
    if seen.ready and seen.follows:
        return advance(state, 0)
    if state.timers.pending_s >= state.plan.ready_deadline_s:
        return roll_back(
            state, "CanaryNeverReady", f"{state.canary} was not ready after {state.plan.ready_deadline_s:.0f} s at 0 %"
        )
    return wait(state, "WaitingForCanary", f"waiting until {state.canary} is ready and has a route")


def unready(state: RolloutState, seen: Seen) -> Decision | None:
    """Roll back when the canary has been unready for too long."""
    if seen.ready or state.timers.unready_s < state.plan.unready_deadline_s:
        return None
    return roll_back(
        state, "CanaryUnready", f"{state.canary} is unready for {state.timers.unready_s:.0f} s, and freezes the weights"
    )


def lagging(state: RolloutState, seen: Seen) -> Decision | None:
    """Wait while the mesh does not have the weights yet, and hold when that takes too long."""
    if seen.follows:
        return None
    if state.timers.lag_s >= state.plan.mesh_deadline_s:
        return hold(
            state,
            "MeshFrozen",
            f"the mesh does not have the weights {state.weights} after {state.timers.lag_s:.0f} s; the operator writes "
            "them only while every replica of every predictor is ready (an autoscaler at work delays them too)",
        )
    return wait(state, "WaitingForMesh", f"waiting until the mesh has the weights {state.weights}")


def not_now(state: RolloutState, seen: Seen) -> Decision | None:
    """Wait for a canary that has just become unready."""
    if seen.ready:
        return None
    left_s = state.plan.unready_deadline_s - state.timers.unready_s
    return wait(state, "CanaryUnready", f"{state.canary} is not ready; it is rolled back in {left_s:.0f} s")
