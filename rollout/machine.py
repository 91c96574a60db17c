"""The state machine of a rollout: (state, what was seen) -> decision. Pure: no cluster, no clock, no socket.

Only a `pass` promotes and only a `fail` rolls back; what is unknown waits, and after its limit is held: the weights
stay, and the rollout goes on by itself when the cause goes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rollout.decision import Action, Decision
from rollout.rules import deployment, evidence, people
from rollout.seen import Seen
from rollout.state import Command, RolloutState, Timers
from rollout.verdict import Verdict

RULES: tuple[Callable[[RolloutState, Seen], Decision | None], ...] = (
    deployment.finishing,
    people.aborted,
    deployment.foreign,
    deployment.pending,
    deployment.unready,
    evidence.failed,
    people.told,
    people.paused,
    deployment.lagging,
    deployment.not_now,
    evidence.blind,
    evidence.misrouted,
    evidence.passed,
)
"""In the order in which they win; the last one always decides."""


def decide(state: RolloutState, seen: Seen) -> Decision:
    """Return what to do now. A rollout that is over must not be asked."""
    state = _watched(state, seen)
    decision = next(found for rule in RULES if (found := rule(state, seen)))
    if decision.state.phase.resting and decision.state.timers.resting_s >= state.plan.watch_held_s:
        return replace(decision, action=Action.LEAVE)
    return decision


def _watched(state: RolloutState, seen: Seen) -> RolloutState:
    """Return the state with its timers and counters brought up to date."""
    timers, dt = state.timers, seen.dt_s
    blind = state.analyse and state.step >= 0 and seen.verdict is Verdict.ERROR
    counted = seen.follows and state.step >= 0
    return state.but(
        timers=Timers(
            step_s=timers.step_s + (dt if counted and not blind else 0.0),
            pending_s=timers.pending_s + (dt if state.step < 0 else 0.0),
            unready_s=0.0 if seen.ready else timers.unready_s + dt,
            lag_s=0.0 if seen.follows else timers.lag_s + dt,
            outage_s=timers.outage_s + dt if blind else 0.0,
            resting_s=timers.resting_s + dt if state.phase.resting else 0.0,
        ),
        canary_requests=state.canary_requests + (seen.canary_requests if counted else 0),
        stable_requests=state.stable_requests + (seen.stable_requests if counted else 0),
        gate_open=state.gate_open or (seen.command is Command.PROMOTE and state.step >= 0 and state.reason != "Paused"),
    )
