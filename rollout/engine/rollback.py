"""The rollback in stages: set the weights, remove the canary, write the mesh directly. Each is verified in the mesh.

Weights alone are not enough. The operator writes them only while every replica of every predictor is ready, so a
canary in a crash loop keeps its share until its predictor is removed. If the SeldonDeployment cannot be written at all
(the webhook of a dead operator rejects every patch, or a living one refuses it), the VirtualService is written at once,
again and again while a living operator takes it back, and the SeldonDeployment as soon as possible. Every stage can be
repeated: a new promoter continues at the stage in the annotation.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial

import structlog

from rollout.clock import Clock, retrying
from rollout.engine.observation import fingerprints, same_weights
from rollout.engine.patches import note, remove, weigh
from rollout.engine.state import Phase, RolloutState, read_state
from rollout.engine.writer import StateWriter
from rollout.errors import Conflict, Denied, LeaseLost, Rejected, StateError, TargetError, Unavailable
from rollout.targets.target import Snapshot, Target

log = structlog.get_logger(__name__)
POLL_S = 1.0
PATIENCE_S = 5.0
"""How long a rejected patch of the SeldonDeployment is repeated before the mesh is written directly."""
PASSES = 3
"""All stages together are repeated for this many deadlines of one stage, while a later attempt may succeed."""
BLOCKED = (Unavailable, Conflict, Denied)
"""The next patch of the SeldonDeployment would be refused for the same reason."""
MAY_PASS = (*BLOCKED, Rejected)
"""A later attempt may succeed: an operator that refuses everything is replaced or mended too."""


class RollbackStage(StrEnum):
    """The stages, in order."""

    WEIGHTS = "weights"
    REMOVAL = "removal"
    MESH = "mesh"


class Rollback:
    """Returns all requests to the stable predictor. alive: called at every check, to renew the lease."""

    def __init__(self, target: Target, state_writer: StateWriter, clock: Clock, *, alive: Callable[[], None]) -> None:
        self._target = target
        self._state_writer = state_writer
        self._clock = clock
        self._alive = alive
        self._force = False

    def run(self, state: RolloutState, *, acted: Callable[[], None] = lambda: None) -> RolloutState:
        """Roll back and return the final state: RolledBack with the stage that worked, or Failed with what was tried.

        acted: called after the first write attempt, since nothing may delay it. Raises LeaseLost when another promoter
        ended the rollout, and TargetError when the outcome could not be written.
        """
        tried: dict[RollbackStage, str] = {}
        deadline_s = self._clock.monotonic_s() + PASSES * state.plan.rollback_deadline_s
        while True:
            stage, may_pass = self._pass(state, tried, acted)
            if stage is not None:
                return self._finish(state, stage)
            if not may_pass or self._clock.monotonic_s() >= deadline_s:
                break
            self._clock.sleep(POLL_S)
        return self._finish_failed(state, tried)

    def _pass(
        self, state: RolloutState, tried: dict[RollbackStage, str], acted: Callable[[], None]
    ) -> tuple[RollbackStage | None, bool]:
        """Try all stages once; return the one that worked, or whether another attempt may help."""
        blocked, may_pass = False, False
        for stage in RollbackStage:
            if blocked and stage is RollbackStage.REMOVAL:
                continue
            try:
                self._apply(stage, state, acted)
                if self._follows(stage, state):
                    return stage, False
                tried[stage] = f"{stage}: the mesh still sends requests to {state.canary}"
            except TargetError as error:
                tried[stage] = f"{stage}: {error}"
                blocked = blocked or isinstance(error, BLOCKED)
                may_pass = may_pass or isinstance(error, MAY_PASS)
            log.warning("rollback_stage_failed", stage=stage.value, detail=tried[stage])
        return None, may_pass

    def _apply(self, stage: RollbackStage, state: RolloutState, acted: Callable[[], None]) -> None:
        """Write the changes of a stage. Raises TargetError."""
        patience_s = state.plan.rollback_deadline_s if stage is RollbackStage.MESH else PATIENCE_S

        def write() -> None:
            self._alive()
            try:
                self._write_stage(stage, self._read(state), state)
            except Conflict:
                self._force = True
                raise
            finally:
                acted()

        again = retrying(
            self._clock, (Unavailable, Conflict), for_s=patience_s, every_s=POLL_S, doing=f"rollback: {stage}"
        )
        again(write)

    def _write_stage(self, stage: RollbackStage, snapshot: Snapshot, state: RolloutState) -> None:
        names = [predictor.name for predictor in snapshot.deployment.predictors]
        if state.stable not in names:
            raise TargetError(f"{state.stable} is gone, there is nothing to return to; predictors: {', '.join(names)}")
        if stage is RollbackStage.WEIGHTS:
            self._state_writer.write(snapshot, _kept(snapshot, state), partial(weigh, force=self._force))
        elif stage is RollbackStage.REMOVAL and state.canary in names:
            self._remove(snapshot, state)
        elif stage is RollbackStage.MESH:
            self._target.route({state.stable: 100})

    def _follows(self, stage: RollbackStage, state: RolloutState) -> bool:
        """Whether the mesh sends everything to stable within the deadline."""
        deadline_s = self._clock.monotonic_s() + state.plan.rollback_deadline_s
        while True:
            self._alive()
            try:
                snapshot = self._read(state)
                if same_weights(snapshot.mesh_weights, {state.stable: 100}):
                    return True
                if stage is RollbackStage.WEIGHTS and _frozen(snapshot, state.canary):
                    return False
                if stage is RollbackStage.MESH:  # a living operator has written the old weights again
                    self._reroute(state)
            except (Unavailable, Conflict) as error:
                log.warning("retry", doing=f"verify {stage}", detail=str(error))
            if self._clock.monotonic_s() >= deadline_s:
                return False
            self._clock.sleep(POLL_S)

    def _read(self, state: RolloutState) -> Snapshot:
        """Read the deployment. Raises LeaseLost when another promoter ended or replaced this rollout."""
        snapshot = self._target.read()
        try:
            found = read_state(snapshot.deployment.metadata.annotations)
        except StateError:  # a rollback needs no record
            return snapshot
        others = found is not None and not self._state_writer.owns(found)
        if found is not None and others and (found.phase.over or found.id != state.id):
            raise LeaseLost(f"promoter {found.writer} ended this rollout ({found.phase}: {found.message})")
        return snapshot

    def _finish(self, state: RolloutState, stage: RollbackStage) -> RolloutState:
        """Record the outcome. A canary without requests is removed, unless the plan keeps it."""
        message = (
            f"{state.message}. All requests go to {state.stable} again, verified in the mesh (stage: {stage.value})"
        )
        final = state.but(phase=Phase.ROLLED_BACK, rollback_stage=stage.value, message=message)
        try:
            return self._record(final)
        except TargetError as error:
            raise type(error)(
                f"{message}. But the SeldonDeployment could not be written, and still asks for other weights: "
                f"{error}. Its operator will write them again when it is back: run `abort` until it succeeds"
            ) from error

    def _finish_failed(self, state: RolloutState, tried: dict[RollbackStage, str]) -> RolloutState:
        failed = state.but(
            phase=Phase.FAILED,
            message=f"{state.message}. The rollback failed ({'; '.join(tried.values())}). By hand: send everything to "
            f"{state.stable} in the VirtualService, then run `abort` again",
        )
        try:
            return self._record(failed)
        except TargetError as error:
            raise type(error)(f"{failed.message}. And this could not be written: {error}") from error

    def _record(self, state: RolloutState) -> RolloutState:
        """Write the final state. The mesh is verified again at each attempt, because an operator may have recovered."""

        def write() -> RolloutState:
            self._alive()
            try:
                snapshot = self._read(state)
                if state.phase is Phase.ROLLED_BACK and not same_weights(snapshot.mesh_weights, {state.stable: 100}):
                    self._reroute(state)
                present = any(predictor.name == state.canary for predictor in snapshot.deployment.predictors)
                if present and state.phase is Phase.ROLLED_BACK and not state.plan.keep_failed_canary:
                    return self._remove(snapshot, state)
                patch = weigh if state.phase is Phase.ROLLED_BACK else note
                return self._state_writer.write(snapshot, _kept(snapshot, state), partial(patch, force=self._force))
            except Conflict:
                self._force = True
                raise

        for_s = state.plan.rollback_deadline_s
        if state.rollback_stage == RollbackStage.MESH:  # a recovered operator would undo it: do not exit early
            for_s = max(for_s, state.plan.watch_held_s)
        refused = MAY_PASS if state.rollback_stage == RollbackStage.MESH else (Unavailable, Conflict)
        again = retrying(self._clock, refused, for_s=for_s, every_s=POLL_S, doing="record the rollback")
        return again(write)

    def _reroute(self, state: RolloutState) -> None:
        try:
            self._target.route({state.stable: 100})
        except TargetError as error:
            log.warning("not_routed_again", detail=str(error))

    def _remove(self, snapshot: Snapshot, state: RolloutState) -> RolloutState:
        left = fingerprints(snapshot.deployment)
        left.pop(state.canary, None)
        patch = partial(remove, name=state.canary, force=self._force)
        return self._state_writer.write(snapshot, state.but(expected=left), patch)


def _frozen(snapshot: Snapshot, canary: str) -> bool:
    """Whether the canary prevents the operator from writing weights."""
    readiness = snapshot.readiness.get(canary)
    return readiness is None or not readiness.ready


def _kept(snapshot: Snapshot, state: RolloutState) -> RolloutState:
    return state.but(expected=fingerprints(snapshot.deployment))
