"""The loop of a rollout: read, observe, decide, act, record. Only the state annotation survives a crash.

Nothing delays the rollback after a failed gate: not the lease, the record or a subscriber. If the deployment can be
read but not written, the promoter continues to observe, and writes the mesh directly if necessary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import structlog

from rollout.analysis.verdict import GateResult, OnDoubt
from rollout.clock import Clock, retrying
from rollout.engine.analyst import Analyst
from rollout.engine.announcer import Announcer, Subscriber
from rollout.engine.capacity import merged, pods_needed, raised, stable_needed
from rollout.engine.checking import Checker
from rollout.engine.decision import Action, Decision, decided
from rollout.engine.lease import Lock
from rollout.engine.observation import Observation, fingerprints, follows, observe
from rollout.engine.patches import note, remove, scale, weigh
from rollout.engine.rollback import Rollback
from rollout.engine.rules import NO_CAPACITY, decide, observed
from rollout.engine.state import COMMAND, Command, Phase, RolloutState, derive_state, read_state
from rollout.engine.writer import StateWriter
from rollout.errors import (
    Conflict,
    Denied,
    InternalError,
    LeaseHeld,
    Rejected,
    RolloutError,
    StateError,
    TargetError,
    Unavailable,
)
from rollout.targets.target import EventType, Operation, Snapshot, Target

log = structlog.get_logger(__name__)
TAKE_OVER_S = 30.0
LAST_WRITE_S = 5.0  # how long a promoter tries to record its exit after a signal
SLICE_S = 0.5  # maximum delay before a signal is noticed
NAP_INTERVALS = 3.0  # a longer gap between two observations was not watched, so it counts as one interval only


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a promoter ended: the last state, and whether a signal ended it before the rollout was over."""

    state: RolloutState
    interrupted: bool = False


@dataclass(slots=True)
class _Memory:
    """What the loop keeps between two observations.

    observed_s: time of the last observation. unsaved: what was observed since the last accepted write.
    unread_since_s, unwritten_since_s: since when reads or writes fail.
    """

    observed_s: float
    unsaved: RolloutState | None = None
    unread_since_s: float | None = None
    unwritten_since_s: float | None = None


class Promoter:
    """Drives one existing rollout from its current state. stop: whether the process received a signal.

    forever: a held or paused rollout stays watched, and a signal changes nothing in the deployment, because the next
    promoter continues at once.
    """

    def __init__(
        self,
        target: Target,
        lock: Lock,
        analyst: Analyst,
        clock: Clock,
        *,
        subscriber: Subscriber,
        stop: Callable[[], bool] = lambda: False,
        forever: bool = False,
        checker: Checker | None = None,
    ) -> None:
        self._target = target
        self._forever = forever
        self._lock = lock
        self._analyst = analyst
        self._clock = clock
        self._stop = stop
        self._checker = checker or Checker(clock)
        self._state_writer = StateWriter(target)
        self._announcer = Announcer(target, subscriber, clock)
        self._executor = Executor(target, self._state_writer, analyst, clock, self._announcer, alive=lock.keep)

    def drive(self, command: Command | None = None) -> Outcome:
        """Take the lease, drive the rollout and return the outcome. command: from a person, for the first observation.

        Raises LeaseHeld, LeaseLost, StateError, TargetError (the rollout stays unchanged, `resume` continues it), and
        InternalError for any unexpected error, after a rollback was tried.
        """
        try:
            self._take_lease(command)
            if command is Command.ABORT and (aborted := self._abort()):
                return aborted
            state = self._take_over()
            if state.phase.over:
                raise StateError(f"this rollout is over ({state.phase}: {state.message}); begin another with `run`")
            return self._loop(state, command)
        except RolloutError:
            raise
        except Exception as error:
            raise self._crashed(error) from error
        finally:
            self._checker.close()
            self._lock.release()

    def _take_lease(self, command: Command | None) -> None:
        """Take the lease, or continue without it if unavailable: the record's `test` prevents concurrent writes."""
        again = retrying(self._clock, (TargetError,), for_s=LAST_WRITE_S, every_s=SLICE_S, doing="take the lease")
        try:
            again(self._lock.acquire)
        except LeaseHeld:
            if command is not Command.ABORT or self._has_abort():
                raise
            log.warning("abort_without_lease", detail="the promoter at work cannot be given the command")
            self._lock.go_without()
        except TargetError as error:
            log.warning("no_lease", detail=str(error))
            self._announcer.publish(EventType.WARNING, "NoLease", f"driving without the lease: {error}")
            self._lock.go_without()

    def _has_abort(self) -> bool:
        """Whether the active promoter will find the command to abort in the deployment."""
        return self._target.read().deployment.metadata.annotations.get(COMMAND) == Command.ABORT

    def _take_over(self) -> RolloutState:
        again = retrying(
            self._clock, (Conflict, Unavailable), for_s=TAKE_OVER_S, every_s=SLICE_S, doing="take the rollout over"
        )
        try:
            return again(self._state_writer.take_over, self._lock.fence)
        except (Unavailable, Denied, Rejected) as error:
            if self._state_writer.known is None:
                raise
            log.warning("not_claimed", detail=str(error))  # nothing can be written, but harm can still be detected
            return self._state_writer.known

    def _abort(self) -> Outcome | None:
        """Roll back at once, whatever is left of the record; None if there is nothing to abort."""
        again = retrying(self._clock, (Unavailable,), for_s=TAKE_OVER_S, every_s=SLICE_S, doing="abort")
        snapshot = again(self._target.read)
        try:
            state = read_state(snapshot.deployment.metadata.annotations)
        except StateError as error:
            log.warning("record_lost", detail=str(error))
            state = None
        state = state or derive_state(snapshot.deployment)
        if state is None or state.phase.over or state.phase is Phase.FINISHING:
            return None
        decision = decided(
            Action.ROLL_BACK, state.but(phase=Phase.ROLLING_BACK), "Aborted", "a person aborted the rollout"
        )
        return Outcome(self._executor.roll_back(snapshot, decision))

    def _crashed(self, error: Exception) -> InternalError:
        """Try a rollback after an unexpected error, and return an error that says how that ended."""
        log.error("unexpected_error", detail=repr(error), exc_info=error)
        what, state = f"unexpected {type(error).__name__}: {error}", self._state_writer.known
        if state is None or state.phase.over or state.phase is Phase.FINISHING:
            return InternalError(f"{what}; the rollout stays as it is, `resume` goes on")
        try:
            decision = decided(Action.ROLL_BACK, state.but(phase=Phase.ROLLING_BACK), "InternalError", what)
            final = self._executor.roll_back(self._target.read(), decision)
        except Exception as second:
            return InternalError(f"{what}; and the way back failed: {second}; run `abort`")
        return InternalError(final.message)

    def _loop(self, state: RolloutState, command: Command | None) -> Outcome:
        memory = _Memory(self._clock.monotonic_s())
        while True:
            self._lock.renew()
            now_s = self._clock.monotonic_s()
            try:
                snapshot, state = self._read(memory)
            except (Unavailable, Denied, Conflict) as error:  # credentials are rotated under a running process too
                if memory.unread_since_s is None:
                    memory.unread_since_s = now_s
                if self._stop() or now_s - memory.unread_since_s >= state.plan.api_grace_s:
                    raise
                log.warning("api_unavailable", detail=str(error))
                self._sleep(state.plan.interval_s)
                continue
            memory.unread_since_s = None
            if state.phase is Phase.ROLLING_BACK:
                decision = Decision(Action.ROLL_BACK, state, state.reason or "RollingBack", state.message)
                return Outcome(self._executor.roll_back(snapshot, decision))
            if self._stop() and self._forever:
                return Outcome(state, interrupted=True)
            if self._stop():
                return Outcome(self._executor.stop(snapshot, state), interrupted=True)
            decision, seen, known = self._observe(snapshot, state, now_s - memory.observed_s, command)
            if self._forever and decision.action is Action.LEAVE:
                decision = replace(decision, action=Action.WAIT)
            if decision.action is Action.ROLL_BACK:
                return Outcome(self._executor.roll_back(snapshot, decision, seen.results))
            try:
                state = self._executor.act(snapshot, decision, seen.results)
            except (Conflict, Unavailable, Denied, Rejected) as error:
                self._not_written(memory, decision, known, seen, now_s, error)
                continue
            self._analyst.keep()
            memory, command = _Memory(now_s), None
            if state.phase.over or decision.action is Action.LEAVE:
                return Outcome(state)
            if decision.action in (Action.WAIT, Action.SCALE, Action.COMPLETE) or state.phase is Phase.FINISHING:
                self._sleep(state.plan.interval_s)

    def _read(self, memory: _Memory) -> tuple[Snapshot, RolloutState]:
        """Read the deployment, and the state with the observations that could not be written."""
        snapshot, state = self._state_writer.read()
        if self._state_writer.record_lost:
            self._announcer.publish(
                EventType.WARNING, "RecordLost", "somebody edited or deleted this rollout's annotation; it is restored"
            )
        if self._state_writer.arrived(state):
            self._analyst.keep()
        elif memory.unsaved is not None and memory.unsaved.nonce == state.nonce:
            state = memory.unsaved
        return snapshot, state

    def _observe(
        self, snapshot: Snapshot, state: RolloutState, gap_s: float, command: Command | None
    ) -> tuple[Decision, Observation, RolloutState]:
        """Return the decision, the observation, and the state with only the observation added."""
        predictors = [name for name in (state.stable, state.canary) if name in state.weights]
        evidence = self._analyst.look(state, predictors)
        checks = self._checker.look(state, snapshot, follows=follows(snapshot, state))
        state = state.but(evidence=evidence.state, checks=checks)
        seen = observe(snapshot, state, evidence, _watched_s(gap_s, state), command)
        return decide(state, seen), seen, observed(state, seen)

    def _not_written(
        self,
        memory: _Memory,
        decision: Decision,
        known: RolloutState,
        seen: Observation,
        now_s: float,
        error: TargetError,
    ) -> None:
        """Keep the observation although it could not be written; raise when that takes too long."""
        state = decision.state if decision.action in (Action.WAIT, Action.SCALE) else known
        interval_s = state.plan.interval_s
        if memory.unwritten_since_s is None:
            memory.unwritten_since_s = now_s
        blocked_s = now_s - memory.unwritten_since_s
        if not isinstance(error, Conflict) and blocked_s >= max(state.plan.api_grace_s, state.plan.watch_held_s):
            raise error
        if not isinstance(error, Conflict) or now_s - memory.observed_s >= interval_s:
            memory.unsaved, memory.observed_s = state.but(nonce=known.nonce), now_s
            self._analyst.keep()
        if isinstance(error, Conflict):  # a write between our read and our write: observe again and decide again
            log.info("conflict", detail=str(error))
            self._clock.sleep(SLICE_S)
            return
        message = f"the deployment cannot be written ({error}); the canary is still watched, and a failure rolled back"
        self._executor.announce(Decision(Action.WAIT, state, "CannotWrite", message), seen.results)
        self._sleep(interval_s)

    def _sleep(self, seconds: float) -> None:
        end_s = self._clock.monotonic_s() + seconds
        while (left_s := end_s - self._clock.monotonic_s()) > 0 and not self._stop():
            self._lock.renew()
            self._clock.sleep(min(left_s, SLICE_S))


def _watched_s(gap_s: float, state: RolloutState) -> float:
    """Return how much of a gap between two observations was watched: a stopped process observes nothing."""
    return gap_s if gap_s <= NAP_INTERVALS * state.plan.interval_s else state.plan.interval_s


class Executor:
    """Executes decisions on one deployment. alive: called during a long rollback, to renew the lease."""

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
        self._target = target
        self._state_writer = state_writer
        self._analyst = analyst
        self._clock = clock
        self._announcer = announcer
        self._alive = alive
        self._name = ""

    def act(self, snapshot: Snapshot, decision: Decision, results: tuple[GateResult, ...]) -> RolloutState:
        """Execute a decision and announce it with the gates' results; return the state as written.

        Raises Conflict. For a rollback use `roll_back`.
        """
        self._name = snapshot.deployment.name
        state = self._write(snapshot, decision)
        self.announce(decision, results)
        if decision.action is Action.COMPLETE:
            self._forget(state.stable)
        return state

    def roll_back(self, snapshot: Snapshot, decision: Decision, results: tuple[GateResult, ...] = ()) -> RolloutState:
        """Roll back, from the stage reached so far, and return the final state. Announces after acting."""
        self._name, decided_s = snapshot.deployment.name, self._clock.wall_s()
        announced = False

        def announce() -> None:
            nonlocal announced
            if not announced:
                announced = True
                self._announcer.announce(
                    self._name, decision, self._analyst.counts, results, at_s=decided_s,
                    mesh_percent=snapshot.mesh_weights,
                )  # fmt: skip

        rollback = Rollback(self._target, self._state_writer, self._clock, alive=self._alive)
        try:
            final = rollback.run(decision.state, acted=announce)
        except TargetError as error:
            self.announce(Decision(Action.ROLL_BACK, decision.state, "RollbackNotRecorded", str(error)))
            raise
        self.announce(Decision(Action.ROLL_BACK, final, final.phase.value, final.message))
        if final.phase is Phase.ROLLED_BACK and not final.plan.keep_failed_canary:
            self._forget(final.canary)
        return final

    def _forget(self, predictor: str) -> None:
        try:
            self._target.forget(predictor)
        except TargetError as error:  # what is left over does no harm
            log.warning("left_behind", predictor=predictor, detail=str(error))

    def stop(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        """Do what the plan wants after a termination signal, and return the resulting state."""
        self._name = snapshot.deployment.name
        if state.plan.on_sigterm is OnDoubt.ROLLBACK and state.phase is not Phase.FINISHING:
            back = state.but(phase=Phase.ROLLING_BACK)
            return self.roll_back(
                snapshot, decided(Action.ROLL_BACK, back, "Interrupted", "the promoter got a signal to end")
            )
        message = f"the promoter got a signal to end, at {state.canary_percent} %; `resume` goes on"
        left = state.but(reason=state.reason if state.phase.on_hold else "Interrupted", message=message)
        again = retrying(
            self._clock, (Unavailable,), for_s=LAST_WRITE_S, every_s=SLICE_S, doing="record that the promoter leaves"
        )
        try:
            left = again(self._state_writer.write, snapshot, left, note)
        except TargetError as error:  # the next promoter continues from the last written state
            log.warning("leaving_not_recorded", detail=str(error))
        self.announce(Decision(Action.LEAVE, left, left.reason, left.message))
        return left

    def announce(self, decision: Decision, results: tuple[GateResult, ...] = ()) -> None:
        """Notify all subscribers of a decision, with the gates' results."""
        self._announcer.announce(self._name, decision, self._analyst.counts, results)

    def _write(self, snapshot: Snapshot, decision: Decision) -> RolloutState:
        state = decision.state.but(updated_at_s=round(self._clock.wall_s(), 3))
        match decision.action:
            case Action.ADVANCE:
                return self._state_writer.write(snapshot, self._analyst.next_step(state), weigh)
            case Action.SCALE:
                return self._scale(snapshot, state)
            case Action.WAIT if decision.reason == NO_CAPACITY:  # with more traffic, more pods than before
                return self._scale(snapshot, state)
            case Action.ADOPT:
                return self._state_writer.write(snapshot, self._adopt(snapshot, state), weigh)
            case Action.FINISH:
                left = {name: mark for name, mark in state.expected.items() if name != state.stable}
                return self._state_writer.write(
                    snapshot, state.but(expected=left), partial(remove, name=state.stable, keep=True)
                )
            case _:
                return self._state_writer.write(snapshot, state, note)

    def _scale(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        """Request the pods of the next step; if they were requested already, write only the state."""
        step = state.plan.last if state.requested is Command.PROMOTE_FULL else min(state.step + 1, state.plan.last)
        canary = snapshot.deployment.predictor(state.canary)
        wanted = {
            state.canary: pods_needed(state, canary, state.plan.steps[step].load_percent),
            state.stable: stable_needed(state, snapshot.deployment),
        }
        operations: list[Operation] = []
        scaling = state.scaling
        for name, pods in wanted.items():
            more, before = raised(snapshot, name, pods)
            operations += more
            scaling = merged(scaling, name, before)
        return self._state_writer.write(snapshot, state.but(scaling=scaling), partial(scale, scaling=operations))

    def _adopt(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        found = fingerprints(snapshot.deployment)
        if missing := [name for name in (state.stable, state.canary) if name not in found]:
            raise StateError(f"cannot go on without {', '.join(missing)}: put it back, or `abort`")
        return state.but(expected=found)
