"""The way back: weights first, then without the canary, then past the operator; each rung is verified in the mesh.

Weights alone are not enough. The operator writes them only while every replica of every predictor is ready, so a
canary that crash-loops keeps its share until its predictor is gone. Every rung may be climbed again: a promoter that
was killed on the ladder goes on where the annotation says.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial

import structlog

from rollout.clock import Clock
from rollout.engine.observation import fingerprints, same_weights
from rollout.engine.patches import note, remove, weigh
from rollout.engine.state import Phase, RolloutState
from rollout.engine.writer import StateWriter
from rollout.errors import Conflict, TargetError, Unavailable
from rollout.targets.target import Snapshot, Target

log = structlog.get_logger(__name__)
POLL_S = 1.0


class Rung(StrEnum):
    """The rungs, in their order."""

    WEIGHTS = "weights"
    REMOVAL = "removal"
    MESH = "mesh"


class Rollback:
    """Brings all requests back to the stable predictor. alive: called at every look, to renew the lease."""

    def __init__(self, target: Target, state_writer: StateWriter, clock: Clock, *, alive: Callable[[], None]) -> None:
        self._target = target
        self._state_writer = state_writer
        self._clock = clock
        self._alive = alive

    def climb(self, state: RolloutState) -> RolloutState:
        """Roll back and return the final state: RolledBack with the rung that worked, or Failed with what was tried.

        Raises LeaseLost, and TargetError when not even the outcome could be written.
        """
        tried = []
        for rung in Rung:
            try:
                if self._step(rung, state):
                    return self._leave(state, rung)
                tried.append(f"{rung}: the mesh still sends requests to {state.canary}")
            except TargetError as error:
                tried.append(f"{rung}: {error}")
            log.warning("rung_failed", rung=rung.value, detail=tried[-1])
        failed = state.but(
            phase=Phase.FAILED,
            message=f"{state.message}. The rollback failed ({'; '.join(tried)}). By hand: delete predictor "
            f"{state.canary}, or send everything to {state.stable} in the VirtualService",
        )
        return self._write_down(failed)

    def _step(self, rung: Rung, state: RolloutState) -> bool:
        """Climb one rung; return whether the mesh followed within the deadline."""
        deadline_s = self._clock.monotonic_s() + state.plan.rollback_deadline_s
        done = False
        while True:
            self._alive()
            try:
                snapshot, current = self._state_writer.read()
                if not done:
                    self._apply(rung, snapshot, state.but(expected=current.expected))
                    done = True
                    snapshot = self._target.read()
                if same_weights(snapshot.mesh_weights, {state.stable: 100}):
                    return True
                if rung is Rung.WEIGHTS and _frozen(snapshot, state.canary):
                    return False
            except (Unavailable, Conflict) as error:
                log.warning("retry", rung=rung.value, error=str(error))
                if self._clock.monotonic_s() >= deadline_s:
                    raise
            if self._clock.monotonic_s() >= deadline_s:
                return False
            self._clock.sleep(POLL_S)

    def _apply(self, rung: Rung, snapshot: Snapshot, state: RolloutState) -> None:
        names = [predictor.name for predictor in snapshot.deployment.predictors]
        if state.stable not in names:
            raise TargetError(f"{state.stable} is gone, there is nothing to return to; predictors: {', '.join(names)}")
        if rung is Rung.WEIGHTS:
            self._state_writer.write(snapshot, state, weigh)
        elif rung is Rung.REMOVAL and state.canary in names:
            self._state_writer.write(snapshot, _without_canary(snapshot, state), partial(remove, name=state.canary))
        elif rung is Rung.MESH:
            self._target.route({state.stable: 100})

    def _leave(self, state: RolloutState, rung: Rung) -> RolloutState:
        """Record the outcome; a canary that gets no requests any more is taken away, unless it shall be kept."""
        message = f"{state.message}. All requests go to {state.stable} again, verified in the mesh (rung: {rung.value})"
        return self._write_down(state.but(phase=Phase.ROLLED_BACK, rung=rung.value, message=message))

    def _write_down(self, state: RolloutState) -> RolloutState:
        try:
            return self._write(state)
        except TargetError as error:
            raise type(error)(f"{state.message}. And this could not be written down: {error}") from error

    def _write(self, state: RolloutState) -> RolloutState:
        deadline_s = self._clock.monotonic_s() + state.plan.rollback_deadline_s
        while True:
            self._alive()
            try:
                snapshot, current = self._state_writer.read()
                present = any(predictor.name == state.canary for predictor in snapshot.deployment.predictors)
                if present and state.phase is Phase.ROLLED_BACK and not state.plan.keep_failed_canary:
                    final = _without_canary(snapshot, state)
                    return self._state_writer.write(snapshot, final, partial(remove, name=state.canary))
                return self._state_writer.write(snapshot, state.but(expected=current.expected), note)
            except (Unavailable, Conflict) as error:
                if self._clock.monotonic_s() >= deadline_s:
                    raise
                log.warning("retry", error=str(error))
            self._clock.sleep(POLL_S)


def _frozen(snapshot: Snapshot, canary: str) -> bool:
    """Whether the canary is what keeps the operator from writing weights."""
    readiness = snapshot.readiness.get(canary)
    return readiness is None or not readiness.ready


def _without_canary(snapshot: Snapshot, state: RolloutState) -> RolloutState:
    left = fingerprints(snapshot.deployment)
    left.pop(state.canary, None)
    return state.but(expected=left)
