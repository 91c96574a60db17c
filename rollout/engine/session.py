"""What a person or a pipeline asks of a rollout, one method for each word of the command line."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rollout.clock import Clock, SystemClock
from rollout.engine.analyst import Analyst
from rollout.engine.announcer import Subscriber
from rollout.engine.lease import Lock
from rollout.engine.patches import command as command_patch
from rollout.engine.patches import weigh
from rollout.engine.promoter import Outcome, Promoter
from rollout.engine.start import FirstPatch, Release, start, undo
from rollout.engine.state import Command, Phase, RolloutState, read_state
from rollout.errors import StateError
from rollout.evidence.source import Source
from rollout.plan.plan import Plan
from rollout.targets.target import LeaseStore, Operation, Snapshot, Target


class RolloutTarget(Target, LeaseStore, Protocol):
    """A deployment together with its lock: every adapter is both."""


@dataclass(frozen=True)
class Session:
    """One caller and one deployment. lease_s: how long a promoter that died keeps others waiting."""

    target: RolloutTarget
    clock: Clock = field(default_factory=SystemClock)
    lease_s: int = 15

    def prepare(self, release: Release, plan: Plan) -> FirstPatch:
        """Return the first patch of a rollout, checked against what is there now. Writes nothing."""
        return start(self.target.read(), release, plan, self.clock)

    def prepare_undo(self, plan: Plan) -> FirstPatch:
        """Return the first patch of the way back after a rollout. Writes nothing."""
        return undo(self.target.read(), plan, self.clock)

    def begin(self, prepare: Callable[[], FirstPatch]) -> RolloutState:
        """Prepare and write the first patch, under the lease. Raises Conflict when somebody wrote in between."""
        lock = self._lock()
        lock.acquire()
        try:
            beginning = prepare()
            self.target.patch(beginning.operations)
            return beginning.state
        finally:
            lock.release()

    def drive(
        self, source: Source, subscriber: Subscriber, *, command: Command | None = None, stop: Callable[[], bool]
    ) -> Outcome:
        """Carry the rollout on until it is over, rests for too long, or `stop` says so."""
        promoter = Promoter(self.target, self._lock(), Analyst(source), self.clock, subscriber=subscriber, stop=stop)
        return promoter.drive(command)

    def say(self, command: Command) -> None:
        """Leave a word for the promoter that drives the rollout, or for the next one. Raises StateError."""
        snapshot, _ = self.active()
        self.target.patch(command_patch(snapshot, command.value))

    def active(self) -> tuple[Snapshot, RolloutState]:
        """Return the rollout under way. Raises StateError when there is none."""
        snapshot = self.target.read()
        state = read_state(snapshot.deployment.metadata.annotations)
        if state is None:
            raise StateError(f"{snapshot.deployment.name} has no rollout; begin one with `run` or `start`")
        if state.phase.over:
            raise StateError(
                f"the rollout of {state.canary} is over ({state.phase.value}: {state.message}); "
                "`undo` brings the version before it back, `run` begins another"
            )
        return snapshot, state

    def last(self) -> RolloutState | None:
        """Return the last rollout, under way or over; None when there was none."""
        return read_state(self.target.read().deployment.metadata.annotations)

    def preview_abort(self) -> Sequence[Operation]:
        """Return the first rung's patch."""
        snapshot, state = self.active()
        return weigh(snapshot, state.but(phase=Phase.ROLLING_BACK))

    def preview(self, command: Command) -> Sequence[Operation]:
        """Return the patch that leaves a word."""
        return command_patch(self.active()[0], command.value)

    def _lock(self) -> Lock:
        holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        return Lock(self.target, self.clock, holder=holder, duration_s=self.lease_s)
