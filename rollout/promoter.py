"""The loop of a rollout: read, gather, decide, act, record. What survives a crash is in the state annotation only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from rollout.acting import Actor
from rollout.analysis import Analyst
from rollout.audience import Audience
from rollout.clock import Clock
from rollout.decision import Action, Decision
from rollout.errors import Conflict, Denied, StateError, Unavailable
from rollout.lease import Lock
from rollout.machine import decide
from rollout.pen import Pen
from rollout.seen import Seen, look
from rollout.state import Command, Phase, RolloutState
from rollout.targets.target import Snapshot, Target
from rollout.voice import Voice

log = structlog.get_logger(__name__)
TAKE_OVER_S = 60.0
SLICE_S = 0.5  # how soon a signal is noticed
NAP_INTERVALS = 3.0  # a longer gap between two looks was not watched, so it counts as one interval only


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
        self._lock = lock
        self._analyst = analyst
        self._clock = clock
        self._stop = stop
        self._pen = Pen(target)
        voice = Voice(target, audience, clock)
        self._actor = Actor(target, self._pen, analyst, clock, voice, alive=lock.renew)

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
                    return Outcome(self._actor.roll_back(snapshot, state))
                if self._stop():
                    return Outcome(self._actor.stop(snapshot, state), interrupted=True)
                decision, seen = self._look(snapshot, state, _watched_s(now_s - looked_s, state), command)
                state = self._actor.act(snapshot, decision, seen.results)
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
        watched = [name for name in (state.stable, state.canary) if name in state.weights]
        evidence = self._analyst.look(state, watched)
        seen = look(snapshot, state, evidence, dt_s, command)
        return decide(state.but(evidence=evidence.state), seen), seen

    def _sleep(self, seconds: float) -> None:
        end_s = self._clock.monotonic_s() + seconds
        while (left_s := end_s - self._clock.monotonic_s()) > 0 and not self._stop():
            self._lock.renew()
            self._clock.sleep(min(left_s, SLICE_S))


def _watched_s(gap_s: float, state: RolloutState) -> float:
    """Return how much of a gap between two looks was watched: a process that was stopped saw nothing meanwhile."""
    return gap_s if gap_s <= NAP_INTERVALS * state.plan.interval_s else state.plan.interval_s
