"""Reads and writes the state of a rollout, and stops once another promoter has written."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import structlog

from rollout.engine.patches import claim
from rollout.engine.state import RolloutState, Timers, read_state
from rollout.errors import LeaseLost, StateError
from rollout.targets.target import Operation, Snapshot, Target

log = structlog.get_logger(__name__)
Patch = Callable[[Snapshot, RolloutState], Sequence[Operation]]


class StateWriter:
    """Reads and writes the state annotation of one deployment for one promoter.

    known: the last state that was read or written. record_lost: the annotation was deleted or edited since then; this
    object keeps the state, and the next write restores it.
    """

    def __init__(self, target: Target, *, writer: str = "") -> None:
        self._target = target
        self._writer = writer or secrets.token_hex(4)
        self._count = 0
        self._unanswered = ""
        self._predecessor = ""
        self.known: RolloutState | None = None
        self.record_lost = False

    def read(self) -> tuple[Snapshot, RolloutState]:
        """Return the deployment and its rollout. Raises LeaseLost when another promoter was the last writer."""
        snapshot = self._target.read()
        try:
            found = read_state(snapshot.deployment.metadata.annotations)
            self.record_lost = found is None
        except StateError as error:
            found, self.record_lost = None, True
            log.warning("record_lost", detail=str(error))
        state = found or self.known
        if state is None:
            raise StateError(f"{snapshot.deployment.name} has no rollout; begin one with `run` or `start`")
        if not self.record_lost and not self.owns(state):
            raise LeaseLost(
                f"promoter {state.writer} wrote to this rollout at fence {state.fence}; this one ({self._writer}) stops"
            )
        self.known = state
        return snapshot, state

    def take_over(self, fence: int) -> RolloutState:
        """Make this promoter the owner of the record: later writes of others are rejected. Raises StateError."""
        snapshot = self._target.read()
        state = read_state(snapshot.deployment.metadata.annotations)
        if state is None:
            raise StateError(f"{snapshot.deployment.name} has no rollout; begin one with `run` or `start`")
        if state.phase.on_hold:  # a resumed rollout waits again for the full time
            again_s = 0.0 if state.reason == "Inconclusive" else state.timers.step_s
            state = state.but(timers=Timers(step_s=again_s, pending_s=state.timers.pending_s))
        self.known, self._predecessor = state, state.writer
        return self.write(snapshot, state.but(fence=fence), claim)

    def write(self, snapshot: Snapshot, state: RolloutState, patch: Patch) -> RolloutState:
        """Write a patch that is based on the snapshot, and return the state as written. Raises Conflict."""
        self._count += 1
        signed = state.but(nonce=f"{self._writer}.{self._count}")
        self._unanswered = signed.nonce
        self._target.patch(patch(snapshot, signed))
        self._unanswered = self._predecessor = ""
        self.known = signed
        return signed

    def arrived(self, state: RolloutState) -> bool:
        """Whether this state is the last write, which succeeded although its response was lost."""
        return bool(self._unanswered) and state.nonce == self._unanswered

    def owns(self, state: RolloutState) -> bool:
        """Whether this promoter, or the one that it replaced, wrote the state."""
        return state.writer in (self._writer, self._predecessor)
