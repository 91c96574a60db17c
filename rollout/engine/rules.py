"""The state machine of a rollout: (state, observation) -> decision. Pure: no cluster, no clock, no socket.

Only a `pass` promotes and only a `fail` rolls back. Without a result the rollout waits, and is held after a limit: the
weights stay, and the rollout continues when the cause disappears. Harm is judged first: a change by another client or a
pause does not keep requests on a canary that fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from rollout.analysis.verdict import OnDoubt, Verdict, missing_evidence
from rollout.engine.decision import Action, Decision, advance, decided, hold, pause, roll_back, wait
from rollout.engine.observation import Observation
from rollout.engine.state import Command, Phase, RolloutState, Timers
from rollout.manifest.seldon import weight_words

SHARE_MIN_REQUESTS = 100
FLAPPING_DEADLINES = 2.0  # the total unready time that causes a rollback, in deadlines
FLAPPING_FORGIVEN = 0.1  # seconds subtracted from that total for each second of readiness
WAITING_FOR_CAPACITY, NO_CAPACITY = ASKED_FOR_PODS = ("WaitingForCapacity", "NoCapacity")
SHARE_SIGMAS = 4.0  # a random deviation of this size happens once in 16,000 observations


def finishing(state: RolloutState, observation: Observation) -> Decision | None:
    """After the old predictor is deleted: wait until the mesh has no route to it, whatever else is observed."""
    if state.phase is not Phase.FINISHING:
        return None
    if observation.ready and observation.follows:
        done = state.but(phase=Phase.SUCCEEDED)
        return decided(Action.COMPLETE, done, "Promoted", f"{state.canary} serves alone, {state.stable} is gone")
    message = f"waiting until the mesh knows {state.canary} only"
    late = state.timers.lag_s >= state.plan.mesh_deadline_s or state.timers.unready_s >= state.plan.mesh_deadline_s
    return decided(Action.LEAVE if late else Action.WAIT, state, "Finishing", message)


def foreign(state: RolloutState, observation: Observation) -> Decision | None:
    """Hold after a change by another client, until it is reverted or a person adopts it."""
    if not observation.foreign:
        return None
    if observation.command is Command.ADOPT and not observation.restarts:
        return decided(Action.ADOPT, state.running(), "Adopted", f"going on from: {observation.foreign}")
    if observation.command is Command.ADOPT:
        begun = state.at_step(-1).but(evidence={})
        return decided(Action.ADOPT, begun, "Adopted", f"beginning again at 0 %, because: {observation.foreign}")
    return hold(
        state,
        "ForeignChange",
        f"somebody else changed the deployment: {observation.foreign}. Choose: put it back (the rollout then goes on), "
        f"`resume --adopt` to go on from what is there now, or `abort` to return to {state.stable}",
    )


def replacing(state: RolloutState, observation: Observation) -> Decision | None:
    """In an undo: remove a version without ready pods as soon as the other one has them.

    The mesh follows no weights before that, because the operator writes them only while every replica is ready.
    """
    if state.step >= 0 or state.analyse or state.plan.steps[0].weight_percent < 100:
        return None
    broken = observation.stable_pods == 0 or (
        not observation.stable_ready and state.timers.pending_s >= state.plan.unready_deadline_s
    )
    if not broken or observation.follows or observation.canary_pods < observation.next_pods:
        return None
    finished = state.at_step(state.plan.last).but(phase=Phase.FINISHING)
    message = f"{state.stable} has {observation.stable_pods} ready pods; it is deleted, and {state.canary} serves alone"
    return decided(Action.FINISH, finished, "Replaced", message + _why(observation))


def pending(state: RolloutState, observation: Observation) -> Decision | None:
    """At 0 %: start the first step once the canary is ready and has a route."""
    if state.step >= 0:
        return None
    if state.requested is Command.PAUSE:
        return pause(state, "Paused", f"{state.canary} stays at 0 %; `promote` ends the pause")
    if observation.ready and observation.follows:
        return commanded(state, observation) or _raise(state, observation, 0)
    if state.timers.pending_s >= state.plan.ready_deadline_s:
        return roll_back(
            state,
            "CanaryNeverReady",
            f"{state.canary} was not ready after {state.plan.ready_deadline_s:.0f} s at 0 %{_why(observation)}",
        )
    return wait(state, "WaitingForCanary", f"waiting until {state.canary} is ready and has a route{_why(observation)}")


def unready(state: RolloutState, observation: Observation) -> Decision | None:
    """Roll back when the canary lacks pods for its share for too long, or repeatedly."""
    if state.step < 0 or not observation.exposed:
        return None
    if not observation.ready and state.timers.unready_s >= _unready_deadline_s(state, observation):
        message = f"{state.canary} is unready for {state.timers.unready_s:.0f} s at {state.canary_percent} %"
        return roll_back(state, "CanaryUnready", message + _why(observation))
    if state.timers.flapping_s >= FLAPPING_DEADLINES * state.plan.unready_deadline_s:
        message = f"{state.canary} becomes unready again and again, for {state.timers.flapping_s:.0f} s by now"
        return roll_back(state, "CanaryFlapping", message + _why(observation))
    return None


def lagging(state: RolloutState, observation: Observation) -> Decision | None:
    """Wait while the mesh does not have the weights yet; hold when that takes too long."""
    if observation.follows:
        return None
    weights = weight_words(state.weights)
    replaced = not (observation.ready or observation.reached)  # a shadow's pods are replaced when it becomes a canary
    if state.timers.lag_s >= (state.plan.ready_deadline_s if replaced else state.plan.mesh_deadline_s):
        return hold(
            state,
            "MeshFrozen",
            f"the mesh does not have the weights {weights} after {state.timers.lag_s:.0f} s; the operator writes "
            "them only while every replica of every predictor is ready (an autoscaler at work delays them too)"
            + _why(observation),
        )
    return wait(state, "WaitingForMesh", f"waiting until the mesh has the weights {weights}{_why(observation)}")


def not_now(state: RolloutState, observation: Observation) -> Decision | None:
    """Wait for a canary that became unready a short time ago."""
    if observation.ready:
        return None
    left_s = _unready_deadline_s(state, observation) - state.timers.unready_s
    return wait(
        state, "CanaryUnready", f"{state.canary} is not ready; it is rolled back in {left_s:.0f} s{_why(observation)}"
    )


def _unready_deadline_s(state: RolloutState, observation: Observation) -> float:
    """Return how long the canary may be unready: as long as at its start while its new pods start at 0 %."""
    harmless = not observation.reached and not observation.follows
    return state.plan.ready_deadline_s if harmless else state.plan.unready_deadline_s


def failed(state: RolloutState, observation: Observation) -> Decision | None:
    """Roll back when a gate fails."""
    if state.step < 0 or not state.analyse or not observation.exposed or observation.verdict is not Verdict.FAIL:
        return None
    said = [result for result in observation.results if result.verdict is Verdict.FAIL and not result.dry_run]
    return roll_back(state, "GateFailed", "; ".join(f"{result.name}: {result.reason}" for result in said))


def blind(state: RolloutState, observation: Observation) -> Decision | None:
    """Wait while there is no evidence; hold when that takes too long."""
    if not state.analyse or observation.verdict is not Verdict.ERROR:
        return None
    said = "; ".join(result.reason for result in observation.results if result.verdict is Verdict.ERROR)
    if state.timers.outage_s >= state.plan.metric_grace_s:
        return hold(state, "EvidenceLost", f"no evidence for {state.timers.outage_s:.0f} s, so nothing moves: {said}")
    return wait(state, "EvidenceOutage", f"no evidence for {state.timers.outage_s:.0f} s: {said}")


def misrouted(state: RolloutState, observation: Observation) -> Decision | None:
    """Hold when the canary's share of the requests does not match its weight: the counts are then invalid."""
    total = state.canary_requests + state.stable_requests
    share = state.canary_percent / 100
    if not state.analyse or total < SHARE_MIN_REQUESTS or share in (0, 1):
        return None
    allowed = state.plan.share_tolerance_percent / 100 + SHARE_SIGMAS * math.sqrt(share * (1 - share) / total)
    observed = state.canary_requests / total
    if abs(observed - share) <= allowed:
        return None
    return hold(
        state,
        "ShareMismatch",
        f"{state.canary} got {observed:.1%} of {total} requests, its weight is {share:.0%} (allowed: {allowed:.1%} "
        "more or less); do callers reach a predictor without the mesh, or does the evidence count other requests?",
    )


def asking(state: RolloutState, observation: Observation) -> Decision | None:
    """Ask a person when a gate found what only a person may judge; `promote` accepts it."""
    if state.step < 0 or not state.analyse or not (open_ := _questions(state, observation)):
        return None
    said = "; ".join(f"{result.name}: {result.reason}" for result in observation.results if result.name in open_)
    return hold(
        state.but(asked=open_),
        "PersonAsked",
        f"{said}. `promote` accepts this, `abort` returns to {state.stable}",
    )


def _questions(state: RolloutState, observation: Observation) -> tuple[str, ...]:
    """Return the names of the gates that ask and were not answered."""
    return tuple(
        result.name
        for result in observation.results
        if result.asks and not result.dry_run and result.name not in state.accepted
    )


def passed(state: RolloutState, observation: Observation) -> Decision:
    """Leave the step when its time, requests, gates, checks and (if manual) a person allow it; else say what lacks.

    The closing checks begin when all else has passed; from then on their results are part of the verdict.
    """
    step = state.plan.steps[state.step]
    if state.timers.step_s < step.min_duration_s:
        left_s = step.min_duration_s - state.timers.step_s
        missing_now = missing_evidence(observation.results)
        return wait(state, "Analysing", f"{left_s:.0f} s more at {_where(state)}; {missing_now}")
    if state.analyse and state.canary_requests < step.min_requests:
        missing = step.min_requests - state.canary_requests
        return _late(state) or wait(state, "Analysing", f"needs {missing} more requests to {state.canary}")
    if state.analyse and observation.verdict is not Verdict.PASS:
        return _late(state) or wait(state, "Analysing", missing_evidence(observation.results))
    if state.analyse and step.closing and not state.closing:
        named = ", ".join(check.name for check in step.closing)
        return wait(state.but(closing=True), "ClosingChecks", f"{_where(state)} passed; now asking: {named}")
    if step.manual and not state.gate_open:
        return pause(state, "ManualGate", f"{_where(state)} passed; `promote` lets it go on")
    if state.step < state.plan.last:
        return _raise(state, observation, state.step + 1)
    finished = state.but(phase=Phase.FINISHING)
    return decided(
        Action.FINISH, finished, "Baked", f"{state.canary} has stayed at 100 %; {state.stable} is deleted now"
    )


def _late(state: RolloutState) -> Decision | None:
    step = state.plan.steps[state.step]
    if state.timers.step_s < step.max_duration_s:
        return None
    spent = f"{state.timers.step_s:.0f} s and {state.canary_requests} requests at {_where(state)}"
    message = f"no verdict after {spent}"
    if state.plan.on_inconclusive is OnDoubt.ROLLBACK:
        return roll_back(state, "Inconclusive", message)
    return hold(state, "Inconclusive", f"{message}; `resume` tries as long again, `abort` returns to {state.stable}")


def aborted(state: RolloutState, observation: Observation) -> Decision | None:
    """Roll back on the command to abort."""
    if observation.command is not Command.ABORT:
        return None
    return roll_back(state, "Aborted", "a person aborted the rollout")


def commanded(state: RolloutState, observation: Observation) -> Decision | None:
    """Pause, or go directly to the last step, as requested by a person."""
    if state.requested is Command.PAUSE:
        return pause(state, "Paused", "a person paused the rollout; `promote` ends the pause")
    if state.requested is Command.PROMOTE_FULL and state.step < state.plan.last:
        full = state.but(analyse=False, requested=None)
        return _raise(state, observation, state.plan.last, then=full)
    return None


def _raise(state: RolloutState, observation: Observation, step: int, *, then: RolloutState | None = None) -> Decision:
    """Set the weight of a step once both versions have enough pods; request them first. then: the state to change."""
    if not observation.lacks_pods:
        return advance(then or state, step)
    lacking = []
    if observation.canary_pods < observation.next_pods:
        wanted = f"{observation.next_pods} ready pods that {state.plan.steps[step].load_percent} % need"
        lacking.append(f"{state.canary} has {observation.canary_pods} of the {wanted}")
    if observation.stable_pods < observation.stable_needed:
        wanted = f"{observation.stable_needed} ready pods that all requests need, should they return to it"
        lacking.append(f"{state.stable} has {observation.stable_pods} of the {wanted}")
    need = f" ({observation.need})" if observation.need else ""
    message = f"{', and '.join(lacking)}{need}{_why(observation)}"
    if state.timers.scaling_s >= state.plan.ready_deadline_s:
        return hold(state, NO_CAPACITY, f"{message}; its weight stays for {state.timers.scaling_s:.0f} s")
    return decided(Action.SCALE, state.running(), WAITING_FOR_CAPACITY, message)


def _where(state: RolloutState) -> str:
    """Name the present step: by its weight, or `0 % (shadow)`."""
    step = state.plan.steps[state.step]
    return f"{step.weight_percent} % ({step.name})" if step.name else f"{step.weight_percent} %"


def _why(observation: Observation) -> str:
    return f" ({observation.problem})" if observation.problem else ""


RULES: tuple[Callable[[RolloutState, Observation], Decision | None], ...] = (
    finishing,
    aborted,
    failed,
    unready,
    foreign,
    replacing,
    pending,
    commanded,
    lagging,
    not_now,
    blind,
    misrouted,
    asking,
    passed,
)
"""The rules in order of precedence; the last one always returns a decision."""


def decide(state: RolloutState, observation: Observation) -> Decision:
    """Return the next decision. Must not be called for a rollout that is over."""
    state = observed(state, observation)
    decision = next(found for rule in RULES if (found := rule(state, observation)))
    if decision.state.phase.on_hold and decision.state.timers.on_hold_s >= state.plan.watch_held_s:
        return replace(decision, action=Action.LEAVE)
    return decision


def observed(state: RolloutState, observation: Observation) -> RolloutState:
    """Return the state with updated timers and counters."""
    timers, dt = state.timers, observation.dt_s
    blind = state.analyse and state.step >= 0 and observation.verdict is Verdict.ERROR
    counted = observation.follows and state.step >= 0
    # A promoter that takes over has no evidence yet, but the question to the person is in the state.
    questions = (_questions(state, observation) or state.asked) if state.analyse and state.step >= 0 else ()
    answered = observation.command is Command.PROMOTE and state.step >= 0 and state.requested is not Command.PAUSE
    return state.but(
        timers=Timers(
            step_s=timers.step_s + (dt if counted and observation.ready and not blind else 0.0),
            pending_s=timers.pending_s + (dt if state.step < 0 else 0.0),
            unready_s=0.0 if observation.ready else timers.unready_s + dt,
            lag_s=0.0 if observation.follows else timers.lag_s + dt,
            outage_s=timers.outage_s + dt if blind else 0.0,
            on_hold_s=timers.on_hold_s + dt if state.phase.on_hold else 0.0,
            scaling_s=timers.scaling_s + dt if observation.lacks_pods and state.reason in ASKED_FOR_PODS else 0.0,
            flapping_s=_flapping_s(state, observation),
        ),
        traffic=state.traffic.after(observation.callers_requests, observation.counted_s),
        canary_requests=state.canary_requests + (observation.canary_requests if counted else 0),
        stable_requests=state.stable_requests + (observation.stable_requests if counted else 0),
        gate_open=state.gate_open or (answered and not questions),
        accepted=(*state.accepted, *questions) if answered else state.accepted,
        requested=_requested(state, observation.command),
    )


def _flapping_s(state: RolloutState, observation: Observation) -> float:
    if state.step < 0 or not (observation.reached or observation.follows):
        return 0.0
    gained = -FLAPPING_FORGIVEN * observation.dt_s if observation.ready else observation.dt_s
    return max(0.0, state.timers.flapping_s + gained)


def _requested(state: RolloutState, command: Command | None) -> Command | None:
    """Return the request that is in effect: a pause until it is ended, `promote --full` until it is done."""
    if command in (Command.PAUSE, Command.PROMOTE_FULL):
        return command
    if command is Command.PROMOTE and state.requested is Command.PAUSE:
        return None
    return state.requested
