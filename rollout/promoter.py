"""The loop of a rollout: read, gather, decide, act, record. What survives a crash is in the state annotation only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from rollout.analysis import Analyst
from rollout.changes import fingerprints, foreign_change, same_weights
from rollout.clock import Clock
from rollout.errors import Conflict, Denied, StateError, TargetError, Unavailable
from rollout.ladder import Ladder
from rollout.lease import Lock
from rollout.machine import Action, Decision, Seen, decide
from rollout.patches import note, remove, weigh
from rollout.pen import Pen
from rollout.plan import OnDoubt
from rollout.record import Record
from rollout.state import COMMAND, Command, Phase, RolloutState
from rollout.targets.target import Event, EventType, Snapshot, Target

log = structlog.get_logger(__name__)
TAKE_OVER_S = 60.0
SLICE_S = 0.5  # how soon a signal is noticed
NAP_INTERVALS = 3.0  # a longer gap between two looks was not watched, so it counts as one interval only


class Audience(Protocol):
    """Whoever wants to know what happens: log, report, terminal, webhook, metrics."""

    def hear(self, record: Record, state: RolloutState) -> None:
        """Take in one record. Must not raise and must not block for long."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a promoter left: the last state, and whether it was told to end before the rollout was over."""

    state: RolloutState
    interrupted: bool = False


class Promoter:
    """Drives one rollout that exists already, from wherever it stands. stop: whether the process was told to end."""

    def __init__(
        self,
        target: Target,
        lock: Lock,
        analyst: Analyst,
        clock: Clock,
        *,
        audience: Audience,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._target = target
        self._lock = lock
        self._analyst = analyst
        self._clock = clock
        self._audience = audience
        self._stop = stop
        self._pen = Pen(target)
        self._ladder = Ladder(target, self._pen, clock, alive=lock.renew)
        self._said = ""

    def drive(self, command: Command | None = None) -> Outcome:
        """Take the lease, carry the rollout on and return where it ended. command: what a person says first.

        Raises LeaseHeld, LeaseLost, StateError, TargetError (the rollout then stays as it is, `resume` goes on).
        """
        try:
            state = self._take_over()
            if state.phase.over:
                raise StateError(f"this rollout is over ({state.phase}: {state.message}); begin another with `run`")
            return self._loop(state, command)
        finally:
            self._lock.release()

    def _take_over(self) -> RolloutState:
        deadline_s = self._clock.monotonic_s() + TAKE_OVER_S
        while True:
            try:
                self._lock.acquire()
                return self._pen.take_over(self._lock.fence)
            except (Conflict, Unavailable) as error:
                if self._clock.monotonic_s() >= deadline_s:
                    raise
                log.warning("take_over_again", detail=str(error))
                self._clock.sleep(SLICE_S)

    def _loop(self, state: RolloutState, command: Command | None) -> Outcome:
        looked_s, failing_since_s = self._clock.monotonic_s(), None
        unsaved: RolloutState | None = None
        while True:
            decision: Decision | None = None
            try:
                self._lock.renew()
                now_s = self._clock.monotonic_s()
                snapshot, state = self._pen.read()
                if self._pen.arrived(state):
                    self._analyst.keep()
                elif unsaved is not None and unsaved.nonce == state.nonce:
                    state = unsaved  # the API server refused to note what was seen: it was seen all the same
                if state.phase is Phase.ROLLING_BACK:
                    return Outcome(self._roll_back(snapshot, state))
                if self._stop():
                    return self._interrupted(snapshot, state)
                decision, seen = self._look(snapshot, state, _watched_s(now_s - looked_s, state), command)
                state = self._act(snapshot, decision, seen)
            except Conflict as error:  # somebody wrote between reading and writing: look again, decide anew
                log.info("conflict", detail=str(error))
                self._clock.sleep(SLICE_S)
                continue
            except (Unavailable, Denied) as error:  # credentials are rotated under a running process too
                failing_since_s = self._clock.monotonic_s() if failing_since_s is None else failing_since_s
                over = decision is not None and decision.action is Action.ROLL_BACK
                if over or self._clock.monotonic_s() - failing_since_s >= state.plan.api_grace_s:
                    raise
                if decision is not None and decision.action is Action.WAIT:
                    unsaved, looked_s = decision.state.but(nonce=state.nonce), now_s
                    self._analyst.keep()
                log.warning("api_unavailable", detail=str(error))
                self._sleep(state.plan.interval_s)
                continue
            self._analyst.keep()
            looked_s, failing_since_s, command, unsaved = now_s, None, None, None
            if state.phase.over or decision.action is Action.LEAVE:
                return Outcome(state)
            if decision.action in (Action.WAIT, Action.COMPLETE) or state.phase is Phase.FINISHING:
                self._sleep(state.plan.interval_s)

    def _look(
        self, snapshot: Snapshot, state: RolloutState, dt_s: float, command: Command | None
    ) -> tuple[Decision, Seen]:
        deployment = snapshot.deployment
        follows = same_weights(snapshot.mesh_weights, state.weights)
        if state.step < 0:  # at 0 % a route for the canary is the proof that its pods were all ready
            follows = follows and state.canary in snapshot.mesh_weights
        watched = [name for name in (state.stable, state.canary) if name in state.weights]
        evidence = self._analyst.look(state, watched)
        word = deployment.metadata.annotations.get(COMMAND)
        change = foreign_change(state, deployment)
        readiness = snapshot.readiness.get(state.canary)
        seen = Seen(
            dt_s=dt_s,
            ready=readiness is not None and readiness.ready,
            follows=follows,
            foreign=change.message,
            restarts=change.restarts,
            results=evidence.results,
            canary_requests=evidence.requests.get(state.canary, 0),
            stable_requests=evidence.requests.get(state.stable, 0),
            command=command or (Command(word) if word in list(Command) else None),
        )
        decision = decide(state.but(evidence=evidence.state), seen)
        return decision, seen

    def _act(self, snapshot: Snapshot, decision: Decision, seen: Seen) -> RolloutState:
        if decision.action is Action.ROLL_BACK:  # why is on record before the ladder is climbed
            self._tell(snapshot, decision.state, decision, seen)
            return self._write(snapshot, decision)
        state = self._write(snapshot, decision)
        self._tell(snapshot, decision.state, decision, seen)
        return state

    def _write(self, snapshot: Snapshot, decision: Decision) -> RolloutState:
        state = decision.state.but(updated_at_s=round(self._clock.wall_s(), 3))
        match decision.action:
            case Action.ADVANCE:
                return self._pen.write(snapshot, self._analyst.next_step(state), weigh)
            case Action.ADOPT:
                return self._pen.write(snapshot, self._adopt(snapshot, state), weigh)
            case Action.FINISH:
                left = {name: mark for name, mark in state.expected.items() if name != state.stable}
                return self._pen.write(
                    snapshot, state.but(expected=left), partial(remove, name=state.stable, keep=True)
                )
            case Action.ROLL_BACK:
                return self._roll_back(snapshot, state)
            case _:
                return self._pen.write(snapshot, state, note)

    def _adopt(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        found = fingerprints(snapshot.deployment)
        if missing := [name for name in (state.stable, state.canary) if name not in found]:
            raise StateError(f"cannot go on without {', '.join(missing)}: put it back, or `abort`")
        return state.but(expected=found)

    def _roll_back(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        self._publish(EventType.WARNING, state.reason or "RollingBack", f"rolling back: {state.message}")
        final = self._ladder.climb(state.but(phase=Phase.ROLLING_BACK))
        outcome = Decision(Action.ROLL_BACK, final, final.phase.value, final.message)
        self._tell(snapshot, final, outcome, Seen(dt_s=0))
        return final

    def _interrupted(self, snapshot: Snapshot, state: RolloutState) -> Outcome:
        if state.plan.on_sigterm is OnDoubt.ROLLBACK and state.phase is not Phase.FINISHING:
            told = state.but(phase=Phase.ROLLING_BACK, reason="Interrupted", message="the promoter was told to end")
            return Outcome(self._roll_back(snapshot, told), interrupted=True)
        message = f"the promoter was told to end, at {state.canary_percent} %; `resume` goes on"
        told = state.but(reason=state.reason if state.phase.resting else "Interrupted", message=message)
        told = self._pen.write(snapshot, told, note)
        self._tell(snapshot, told, Decision(Action.LEAVE, told, told.reason, told.message), Seen(dt_s=0))
        return Outcome(told, interrupted=True)

    def _tell(self, snapshot: Snapshot, state: RolloutState, decision: Decision, seen: Seen) -> None:
        changed = decision.reason != self._said
        self._said = decision.reason
        record = Record(
            at_s=self._clock.wall_s(),
            event=decision.reason if changed else "Sample",
            deployment=snapshot.deployment.name,
            stable=state.stable,
            canary=state.canary,
            step=state.step if state.step >= 0 else None,
            weights_percent=state.weights,
            verdicts=seen.results,
            counts=self._analyst.counts,
            decision=decision.action.value,
            message=decision.message,
            phase=state.phase.value,
        )
        self._audience.hear(record, state)
        if changed:
            calm = state.phase not in (Phase.HELD, Phase.FAILED, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
            self._publish(EventType.NORMAL if calm else EventType.WARNING, decision.reason, decision.message)

    def _publish(self, kind: EventType, reason: str, message: str) -> None:
        try:
            self._target.publish(Event(kind, reason, message))
        except TargetError as error:  # the audit trail must never decide how a rollout ends
            log.warning("event_lost", reason=reason, detail=str(error))

    def _sleep(self, seconds: float) -> None:
        end_s = self._clock.monotonic_s() + seconds
        while (left_s := end_s - self._clock.monotonic_s()) > 0 and not self._stop():
            self._lock.renew()
            self._clock.sleep(min(left_s, SLICE_S))


def _watched_s(gap_s: float, state: RolloutState) -> float:
    """Return how much of a gap between two looks was watched: a process that was stopped saw nothing meanwhile."""
    return gap_s if gap_s <= NAP_INTERVALS * state.plan.interval_s else state.plan.interval_s
