"""The loop of a rollout: read, gather, decide, act, record. What survives a crash is in the state annotation only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from rollout.analysis.verdict import GateResult
from rollout.clock import Clock
from rollout.engine.analyst import Analyst
from rollout.engine.announcer import Announcer, Subscriber
from rollout.engine.decision import Action, Decision
from rollout.engine.lease import Lock
from rollout.engine.observation import Observation, fingerprints, observe
from rollout.engine.patches import note, remove, weigh
from rollout.engine.rollback import Rollback
from rollout.engine.rules import decide
from rollout.engine.state import Command, Phase, RolloutState
from rollout.engine.writer import StateWriter
from rollout.errors import Conflict, Denied, StateError, Unavailable
from rollout.plan.plan import OnDoubt
from rollout.targets.target import EventType, Snapshot, Target

log = structlog.get_logger(__name__)
TAKE_OVER_S = 60.0
SLICE_S = 0.5  # how soon a signal is noticed
NAP_INTERVALS = 3.0  # a longer gap between two observations was not watched, so it counts as one interval only


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
        subscriber: Subscriber,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lock = lock
        self._analyst = analyst
        self._clock = clock
        self._stop = stop
        self._state_writer = StateWriter(target)
        announcer = Announcer(target, subscriber, clock)
        self._actor = Executor(target, self._state_writer, analyst, clock, announcer, alive=lock.renew)

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
                return self._state_writer.take_over(self._lock.fence)
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
                snapshot, state = self._state_writer.read()
                if self._state_writer.arrived(state):
                    self._analyst.keep()
                elif unsaved is not None and unsaved.nonce == state.nonce:
                    state = unsaved  # the API server refused to note what was observed: it was observed all the same
                if state.phase is Phase.ROLLING_BACK:
                    return Outcome(self._actor.roll_back(snapshot, state))
                if self._stop():
                    return Outcome(self._actor.stop(snapshot, state), interrupted=True)
                decision, observation = self._observe(snapshot, state, _watched_s(now_s - looked_s, state), command)
                state = self._actor.act(snapshot, decision, observation.results)
            except Conflict as error:  # somebody wrote between reading and writing: observe again, decide anew
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

    def _observe(
        self, snapshot: Snapshot, state: RolloutState, dt_s: float, command: Command | None
    ) -> tuple[Decision, Observation]:
        watched = [name for name in (state.stable, state.canary) if name in state.weights]
        evidence = self._analyst.look(state, watched)
        observation = observe(snapshot, state, evidence, dt_s, command)
        return decide(state.but(evidence=evidence.state), observation), observation

    def _sleep(self, seconds: float) -> None:
        end_s = self._clock.monotonic_s() + seconds
        while (left_s := end_s - self._clock.monotonic_s()) > 0 and not self._stop():
            self._lock.renew()
            self._clock.sleep(min(left_s, SLICE_S))


def _watched_s(gap_s: float, state: RolloutState) -> float:
    """Return how much of a gap between two observations was watched: a stopped process saw nothing meanwhile."""
    return gap_s if gap_s <= NAP_INTERVALS * state.plan.interval_s else state.plan.interval_s


class Executor:
    """Carries out decisions on one deployment. alive: called while a rollback takes its time, to renew the lease."""

    def __init__(
        self,
        target: Target,
        state_writer: StateWriter,
        analyst: Analyst,
        clock: Clock,
        announcer: Announcer,
        *,
        alive: Callable[[], None],
    ) -> None:
        self._state_writer = state_writer
        self._analyst = analyst
        self._clock = clock
        self._announcer = announcer
        self._rollback = Rollback(target, state_writer, clock, alive=alive)

    def act(self, snapshot: Snapshot, decision: Decision, results: tuple[GateResult, ...]) -> RolloutState:
        """Carry out a decision and tell it with what the gates said; return the state as written. Raises Conflict."""
        if decision.action is Action.ROLL_BACK:  # why is on record before the ladder is climbed
            self._tell(snapshot, decision, results)
            return self._write(snapshot, decision)
        state = self._write(snapshot, decision)
        self._tell(snapshot, decision, results)
        return state

    def roll_back(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        """Climb the ladder, from wherever it was left, and return how it ended."""
        self._announcer.publish(EventType.WARNING, state.reason or "RollingBack", f"rolling back: {state.message}")
        final = self._rollback.climb(state.but(phase=Phase.ROLLING_BACK))
        self._tell(snapshot, Decision(Action.ROLL_BACK, final, final.phase.value, final.message))
        return final

    def stop(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        """Do what the plan wants when the process is told to end, and return the state that is left."""
        if state.plan.on_sigterm is OnDoubt.ROLLBACK and state.phase is not Phase.FINISHING:
            told = state.but(phase=Phase.ROLLING_BACK, reason="Interrupted", message="the promoter was told to end")
            return self.roll_back(snapshot, told)
        message = f"the promoter was told to end, at {state.canary_percent} %; `resume` goes on"
        told = state.but(reason=state.reason if state.phase.resting else "Interrupted", message=message)
        told = self._state_writer.write(snapshot, told, note)
        self._tell(snapshot, Decision(Action.LEAVE, told, told.reason, told.message))
        return told

    def _write(self, snapshot: Snapshot, decision: Decision) -> RolloutState:
        state = decision.state.but(updated_at_s=round(self._clock.wall_s(), 3))
        match decision.action:
            case Action.ADVANCE:
                return self._state_writer.write(snapshot, self._analyst.next_step(state), weigh)
            case Action.ADOPT:
                return self._state_writer.write(snapshot, self._adopt(snapshot, state), weigh)
            case Action.FINISH:
                left = {name: mark for name, mark in state.expected.items() if name != state.stable}
                return self._state_writer.write(
                    snapshot, state.but(expected=left), partial(remove, name=state.stable, keep=True)
                )
            case Action.ROLL_BACK:
                return self.roll_back(snapshot, state)
            case _:
                return self._state_writer.write(snapshot, state, note)

    def _adopt(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        found = fingerprints(snapshot.deployment)
        if missing := [name for name in (state.stable, state.canary) if name not in found]:
            raise StateError(f"cannot go on without {', '.join(missing)}: put it back, or `abort`")
        return state.but(expected=found)

    def _tell(self, snapshot: Snapshot, decision: Decision, results: tuple[GateResult, ...] = ()) -> None:
        self._announcer.tell(snapshot.deployment.name, decision, self._analyst.counts, results)
