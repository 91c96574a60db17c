"""What a decision does: it is written to the deployment and told, or the rollout goes back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rollout.analysis import Analyst
from rollout.changes import fingerprints
from rollout.clock import Clock
from rollout.decision import Action, Decision
from rollout.errors import StateError
from rollout.ladder import Ladder
from rollout.patches import note, remove, weigh
from rollout.pen import Pen
from rollout.plan import OnDoubt
from rollout.state import Phase, RolloutState
from rollout.targets.target import EventType, Snapshot, Target
from rollout.verdict import GateResult
from rollout.voice import Voice


class Actor:
    """Carries out decisions on one deployment. alive: called while a rollback takes its time, to renew the lease."""

    def __init__(
        self, target: Target, pen: Pen, analyst: Analyst, clock: Clock, voice: Voice, *, alive: Callable[[], None]
    ) -> None:
        self._pen = pen
        self._analyst = analyst
        self._clock = clock
        self._voice = voice
        self._ladder = Ladder(target, pen, clock, alive=alive)

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
        self._voice.publish(EventType.WARNING, state.reason or "RollingBack", f"rolling back: {state.message}")
        final = self._ladder.climb(state.but(phase=Phase.ROLLING_BACK))
        self._tell(snapshot, Decision(Action.ROLL_BACK, final, final.phase.value, final.message))
        return final

    def stop(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        """Do what the plan wants when the process is told to end, and return the state that is left."""
        if state.plan.on_sigterm is OnDoubt.ROLLBACK and state.phase is not Phase.FINISHING:
            told = state.but(phase=Phase.ROLLING_BACK, reason="Interrupted", message="the promoter was told to end")
            return self.roll_back(snapshot, told)
        message = f"the promoter was told to end, at {state.canary_percent} %; `resume` goes on"
        told = state.but(reason=state.reason if state.phase.resting else "Interrupted", message=message)
        told = self._pen.write(snapshot, told, note)
        self._tell(snapshot, Decision(Action.LEAVE, told, told.reason, told.message))
        return told

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
                return self.roll_back(snapshot, state)
            case _:
                return self._pen.write(snapshot, state, note)

    def _adopt(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        found = fingerprints(snapshot.deployment)
        if missing := [name for name in (state.stable, state.canary) if name not in found]:
            raise StateError(f"cannot go on without {', '.join(missing)}: put it back, or `abort`")
        return state.but(expected=found)

    def _tell(self, snapshot: Snapshot, decision: Decision, results: tuple[GateResult, ...] = ()) -> None:
        self._voice.tell(snapshot.deployment.name, decision, self._analyst.counts, results)
