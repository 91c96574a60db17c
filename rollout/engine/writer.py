"""Writes the state of a rollout to its deployment, and refuses to go on once another promoter has written."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from rollout.engine.patches import claim
from rollout.engine.state import STATE, RolloutState, Timers, read_state
from rollout.errors import LeaseLost, StateError
from rollout.targets.target import Operation, Snapshot, Target

Patch = Callable[[Snapshot, RolloutState], Sequence[Operation]]


class StateWriter:
    """Reads and writes the state annotation of one deployment for one promoter."""

    def __init__(self, target: Target, *, writer: str = "") -> None:
        self._target = target
        self._writer = writer or secrets.token_hex(4)
        self._count = 0
        self._unanswered = ""

    def read(self) -> tuple[Snapshot, RolloutState]:
        """Return the deployment and its rollout. Raises LeaseLost when another promoter wrote last, StateError."""
        snapshot = self._target.read()
        state = read_state(snapshot.deployment.metadata.annotations)
        if state is None:
            raise StateError(
                f"the annotation {STATE} of {snapshot.deployment.name} is gone, and with it the record of "
                "this rollout (does a GitOps tool replace annotations?); the weights stay as they are: "
                "set them by hand, or start anew"
            )
        if state.writer != self._writer:
            raise LeaseLost(
                f"promoter {state.writer} wrote to this rollout at fence {state.fence}; this one ({self._writer}) stops"
            )
        return snapshot, state

    def take_over(self, fence: int) -> RolloutState:
        """Make the record this promoter's own: an earlier one's writes are refused from now on. Raises StateError."""
        snapshot = self._target.read()
        state = read_state(snapshot.deployment.metadata.annotations)
        if state is None:
            raise StateError(f"{snapshot.deployment.name} has no rollout; begin one with `run` or `start`")
        if state.phase.resting:  # who resumes a rest gives what was waited for its whole time again
            again_s = 0.0 if state.reason == "Inconclusive" else state.timers.step_s
            state = state.but(timers=Timers(step_s=again_s, pending_s=state.timers.pending_s))
        return self.write(snapshot, state.but(fence=fence), claim)

    def write(self, snapshot: Snapshot, state: RolloutState, patch: Patch) -> RolloutState:
        """Write a patch that was computed from the snapshot, and return the state as written. Raises Conflict."""
        self._count += 1
        signed = state.but(nonce=f"{self._writer}.{self._count}")
        self._unanswered = signed.nonce
        self._target.patch(patch(snapshot, signed))
        self._unanswered = ""
        return signed

    def arrived(self, state: RolloutState) -> bool:
        """Whether this state is the last write, whose answer was lost: it took effect all the same."""
        return bool(self._unanswered) and state.nonce == self._unanswered
