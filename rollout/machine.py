"""The state machine of a rollout: (state, what was seen) -> decision. Pure: no cluster, no clock, no socket.

The rules stand in the order in which they win. Only a `pass` promotes and only a `fail` rolls back; what is unknown
waits, and after its limit is held: the weights stay, and the rollout goes on by itself when the cause goes away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from rollout.plan import OnDoubt
from rollout.state import Command, Phase, RolloutState, Timers
from rollout.verdict import GateResult, Verdict, combine

SHARE_MIN_REQUESTS = 100
SHARE_SIGMAS = 4.0  # a share that is this far off by chance alone: once in 16,000 looks


class Action(StrEnum):
    """What the promoter shall do next."""

    WAIT = "wait"
    ADVANCE = "advance"
    ADOPT = "adopt"
    FINISH = "finish"
    COMPLETE = "complete"
    ROLL_BACK = "roll_back"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the world gave.

    dt_s: seconds watched since the last look. ready: the canary is (or in Finishing: what is left is). follows: the
    mesh has the weights that the state asks for. foreign: what somebody else changed, in words; empty: nothing.
    restarts: that change makes the evidence worthless (another canary image). results: what the gates say, empty where
    nothing was analysed. The request counts are those since the last look, and only while the mesh followed.
    """

    dt_s: float
    ready: bool = True
    follows: bool = True
    foreign: str = ""
    restarts: bool = False
    results: tuple[GateResult, ...] = ()
    canary_requests: int = 0
    stable_requests: int = 0
    command: Command | None = None

    @property
    def verdict(self) -> Verdict:
        """All gates together."""
        return combine(self.results)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, the state that follows, and why: a CamelCase word for programs, a sentence for people."""

    action: Action
    state: RolloutState
    reason: str
    message: str


def decide(state: RolloutState, seen: Seen) -> Decision:
    """Return what to do now. A rollout that is over must not be asked."""
    state = _watched(state, seen)
    for rule in RULES:
        if decision := rule(state, seen):
            break
    else:
        decision = _wait(state, "Analysing", _needs(seen.results))
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


def _finishing(state: RolloutState, seen: Seen) -> Decision | None:
    if state.phase is not Phase.FINISHING:
        return None
    if seen.ready and seen.follows:
        done = state.but(phase=Phase.SUCCEEDED)
        return _decision(Action.COMPLETE, done, "Promoted", f"{state.canary} serves alone, {state.stable} is gone")
    message = f"waiting until the mesh knows {state.canary} only"
    late = state.timers.lag_s >= state.plan.mesh_deadline_s or state.timers.unready_s >= state.plan.mesh_deadline_s
    return _decision(Action.LEAVE if late else Action.WAIT, state, "Finishing", message)


def _aborted(state: RolloutState, seen: Seen) -> Decision | None:
    if seen.command is not Command.ABORT:
        return None
    return _roll_back(state, "Aborted", "a person aborted the rollout")


def _foreign(state: RolloutState, seen: Seen) -> Decision | None:
    if not seen.foreign:
        return None
    if seen.command is Command.ADOPT and not seen.restarts:
        return _decision(Action.ADOPT, _running(state), "Adopted", f"going on from: {seen.foreign}")
    if seen.command is Command.ADOPT:
        begun = state.but(phase=Phase.PENDING, step=-1, **_fresh(), evidence={})
        return _decision(Action.ADOPT, begun, "Adopted", f"beginning again at 0 %, because: {seen.foreign}")
    return _hold(
        state,
        "ForeignChange",
        f"somebody else changed the deployment: {seen.foreign}. Choose: put it back (the rollout then goes on), "
        f"`resume --adopt` to go on from what is there now, or `abort` to return to {state.stable}",
    )


def _pending(state: RolloutState, seen: Seen) -> Decision | None:
    if state.step >= 0:
        return None
    if seen.command is Command.PAUSE or (state.phase is Phase.PAUSED and not _opened(seen)):
        return _pause(state, "Paused", f"{state.canary} stays at 0 %; open with `promote`")
    if seen.ready and seen.follows:
        return _advance(state, 0)
    if state.timers.pending_s >= state.plan.ready_deadline_s:
        return _roll_back(
            state, "CanaryNeverReady", f"{state.canary} was not ready after {state.plan.ready_deadline_s:.0f} s at 0 %"
        )
    return _wait(state, "WaitingForCanary", f"waiting until {state.canary} is ready and has a route")


def _unready(state: RolloutState, seen: Seen) -> Decision | None:
    if seen.ready or state.timers.unready_s < state.plan.unready_deadline_s:
        return None
    return _roll_back(
        state, "CanaryUnready", f"{state.canary} is unready for {state.timers.unready_s:.0f} s, and freezes the weights"
    )


def _failed(state: RolloutState, seen: Seen) -> Decision | None:
    if not state.analyse or seen.verdict is not Verdict.FAIL:
        return None
    failed = [result for result in seen.results if result.verdict is Verdict.FAIL and not result.dry_run]
    return _roll_back(state, "GateFailed", "; ".join(f"{result.name}: {result.reason}" for result in failed))


def _told(state: RolloutState, seen: Seen) -> Decision | None:
    if seen.command is Command.PAUSE:
        return _pause(state, "Paused", "a person paused the rollout; open with `promote`")
    if seen.command is Command.PROMOTE_FULL and state.step < state.plan.last:
        return _advance(state.but(analyse=False), state.plan.last)
    return None


def _paused(state: RolloutState, seen: Seen) -> Decision | None:
    if state.phase is not Phase.PAUSED or state.reason != "Paused" or _opened(seen):
        return None
    return _pause(state, state.reason, state.message)


def _lagging(state: RolloutState, seen: Seen) -> Decision | None:
    if seen.follows:
        return None
    if state.timers.lag_s >= state.plan.mesh_deadline_s:
        return _hold(
            state,
            "MeshFrozen",
            f"the mesh does not have the weights {state.weights} after {state.timers.lag_s:.0f} s; the operator writes "
            "them only while every replica of every predictor is ready (an autoscaler at work delays them too)",
        )
    return _wait(state, "WaitingForMesh", f"waiting until the mesh has the weights {state.weights}")


def _not_now(state: RolloutState, seen: Seen) -> Decision | None:
    if seen.ready:
        return None
    left_s = state.plan.unready_deadline_s - state.timers.unready_s
    return _wait(state, "CanaryUnready", f"{state.canary} is not ready; it is rolled back in {left_s:.0f} s")


def _blind(state: RolloutState, seen: Seen) -> Decision | None:
    if not state.analyse or seen.verdict is not Verdict.ERROR:
        return None
    said = "; ".join(result.reason for result in seen.results if result.verdict is Verdict.ERROR)
    if state.timers.outage_s >= state.plan.metric_grace_s:
        return _hold(state, "EvidenceLost", f"no evidence for {state.timers.outage_s:.0f} s, so nothing moves: {said}")
    return _wait(state, "EvidenceOutage", f"no evidence for {state.timers.outage_s:.0f} s: {said}")


def _misrouted(state: RolloutState, seen: Seen) -> Decision | None:
    total = state.canary_requests + state.stable_requests
    share = state.canary_percent / 100
    if not state.analyse or total < SHARE_MIN_REQUESTS or share in (0, 1):
        return None
    allowed = state.plan.share_tolerance_percent / 100 + SHARE_SIGMAS * math.sqrt(share * (1 - share) / total)
    observed = state.canary_requests / total
    if abs(observed - share) <= allowed:
        return None
    return _hold(
        state,
        "ShareMismatch",
        f"{state.canary} got {observed:.1%} of {total} requests, its weight is {share:.0%} (allowed: +-{allowed:.1%}); "
        "do callers reach a predictor past the mesh, or does the evidence count other requests?",
    )


def _passed(state: RolloutState, seen: Seen) -> Decision | None:
    step = state.plan.steps[state.step]
    if state.timers.step_s < step.min_duration_s:
        left_s = step.min_duration_s - state.timers.step_s
        return _wait(state, "Analysing", f"{left_s:.0f} s more at {step.weight_percent} %; {_needs(seen.results)}")
    if state.analyse and state.canary_requests < step.min_requests:
        missing = step.min_requests - state.canary_requests
        return _late(state) or _wait(state, "Analysing", f"needs {missing} more requests to {state.canary}")
    if state.analyse and seen.verdict is not Verdict.PASS:
        return _late(state) or _wait(state, "Analysing", _needs(seen.results))
    if step.manual and not state.gate_open:
        return _pause(state, "ManualGate", f"{step.weight_percent} % passed; open with `promote`")
    if state.step < state.plan.last:
        return _advance(state, state.step + 1)
    finished = state.but(phase=Phase.FINISHING)
    return _decision(Action.FINISH, finished, "Baked", f"{state.canary} held at 100 %; {state.stable} is deleted now")


def _late(state: RolloutState) -> Decision | None:
    step = state.plan.steps[state.step]
    if state.timers.step_s < step.max_duration_s:
        return None
    seen = f"{state.timers.step_s:.0f} s and {state.canary_requests} requests at {step.weight_percent} %"
    message = f"no verdict after {seen}"
    if state.plan.on_inconclusive is OnDoubt.ROLLBACK:
        return _roll_back(state, "Inconclusive", message)
    return _hold(state, "Inconclusive", f"{message}; `resume` tries as long again, `abort` returns to {state.stable}")


RULES: tuple[Callable[[RolloutState, Seen], Decision | None], ...] = (
    _finishing,
    _aborted,
    _foreign,
    _pending,
    _unready,
    _failed,
    _told,
    _paused,
    _lagging,
    _not_now,
    _blind,
    _misrouted,
    _passed,
)


def _opened(seen: Seen) -> bool:
    return seen.command in (Command.PROMOTE, Command.PROMOTE_FULL)


def _needs(results: tuple[GateResult, ...]) -> str:
    """Say in words what the gates still wait for."""
    open_gates = [result for result in results if result.verdict is not Verdict.PASS and not result.dry_run]
    if not open_gates:
        return "all gates pass" if results else "nothing measured yet"
    missing = max((result.needs_requests or 0) for result in open_gates)
    said = "; ".join(f"{result.name}: {result.reason}" for result in open_gates)
    return f"needs about {missing} more requests ({said})" if missing else said


def _fresh() -> dict[str, object]:
    return {"timers": Timers(), "canary_requests": 0, "stable_requests": 0, "gate_open": False}


def _running(state: RolloutState) -> RolloutState:
    return state.but(phase=state.active_phase)


def _decision(action: Action, state: RolloutState, reason: str, message: str) -> Decision:
    return Decision(action, state.but(reason=reason, message=message), reason, message)


def _wait(state: RolloutState, reason: str, message: str) -> Decision:
    return _decision(Action.WAIT, _running(state), reason, message)


def _hold(state: RolloutState, reason: str, message: str) -> Decision:
    return _decision(Action.WAIT, state.but(phase=Phase.HELD), reason, message)


def _pause(state: RolloutState, reason: str, message: str) -> Decision:
    return _decision(Action.WAIT, state.but(phase=Phase.PAUSED), reason, message)


def _roll_back(state: RolloutState, reason: str, message: str) -> Decision:
    return _decision(Action.ROLL_BACK, state.but(phase=Phase.ROLLING_BACK), reason, message)


def _advance(state: RolloutState, step: int) -> Decision:
    percent = state.plan.steps[step].weight_percent
    moved = state.but(step=step, **_fresh())
    moved = moved.but(phase=moved.active_phase)
    reason = "Baking" if step == state.plan.last else "WeightsRaised"
    message = f"{percent} % to {state.canary}, {100 - percent} % to {state.stable}"
    return _decision(Action.ADVANCE, moved, reason, message)
