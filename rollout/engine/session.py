"""The operations on a rollout, one method for each command of the command line."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from rollout.clock import Clock, SystemClock
from rollout.engine.analyst import Analyst
from rollout.engine.announcer import Subscriber
from rollout.engine.checking import Checker
from rollout.engine.lease import Lock
from rollout.engine.patches import command as command_patch
from rollout.engine.patches import weigh
from rollout.engine.promoter import Outcome, Promoter
from rollout.engine.start import FirstPatch, Release, start, undo
from rollout.engine.state import Command, Phase, RolloutState, derive_state, read_state
from rollout.errors import StateError, TargetError
from rollout.evidence.prometheus import PrometheusSource
from rollout.evidence.source import Source
from rollout.plan.plan import Plan
from rollout.targets.target import LeaseRecord, LeaseStore, Operation, Snapshot, Target

log = structlog.get_logger(__name__)


class RolloutTarget(Target, LeaseStore, Protocol):
    """A deployment together with its lease; every adapter implements both."""


@dataclass(frozen=True)
class Session:
    """One caller and one deployment. lease_s: how long others wait after a promoter died.

    identity: the caller's name as holder of the lease; empty: this process. presence: the lease by which a controller
    says that it is alive; None where there can be none.
    """

    target: RolloutTarget
    clock: Clock = field(default_factory=SystemClock)
    lease_s: int = 15
    identity: str = ""
    presence: LeaseStore | None = None

    def prepare(self, release: Release, plan: Plan) -> FirstPatch:
        """Return the first patch of a rollout, checked against the current deployment. Writes nothing."""
        return start(self.target.read(), release, plan, self.clock)

    def prepare_undo(self, plan: Plan) -> FirstPatch:
        """Return the first patch of an undo after a rollout. Writes nothing."""
        return undo(self.target.read(), plan, self.clock)

    def begin(self, prepare: Callable[[], FirstPatch]) -> RolloutState:
        """Prepare and write the first patch while holding the lease. Raises Conflict after a concurrent write."""
        lock = self._lock()
        lock.acquire()
        try:
            first = prepare()
            self.target.patch(first.operations)
            return first.state
        finally:
            lock.release()

    def drive(
        self,
        source: Source,
        subscriber: Subscriber,
        *,
        command: Command | None = None,
        stop: Callable[[], bool],
        forever: bool = False,
    ) -> Outcome:
        """Drive the rollout until it is over, is held for too long, or `stop` is true.

        forever: watch a held or paused rollout without an end, and leave everything as it is when `stop` is true.
        """
        promoter = Promoter(
            self.target,
            self._lock(),
            Analyst(source),
            self.clock,
            subscriber=subscriber,
            stop=stop,
            forever=forever,
            checker=Checker(self.clock, prometheus=source.address if isinstance(source, PrometheusSource) else ""),
        )
        return promoter.drive(command)

    def send(self, command: Command) -> None:
        """Store a command for the promoter that drives the rollout, or for the next one. Raises StateError.

        An abort that cannot be written is no error here, because `drive` executes it without the annotation.
        """
        snapshot, _ = self.active()
        if command is not Command.ABORT:
            _recorded(snapshot)
        try:
            self.target.patch(command_patch(snapshot, command.value))
        except TargetError as error:
            if command is not Command.ABORT:
                raise
            log.warning("command_not_written", command=command.value, detail=str(error))

    def active(self) -> tuple[Snapshot, RolloutState]:
        """Return the active rollout; if its record is lost, it is derived from the deployment.

        Raises StateError when there is none.
        """
        snapshot = self.target.read()
        state = _found(snapshot)
        if state is None:
            raise StateError(f"{snapshot.deployment.name} has no rollout; begin one with `run` or `start`")
        if state.phase.over:
            raise StateError(
                f"the rollout of {state.canary} is over ({state.phase.value}: {state.message}); "
                "`undo` brings the version before it back, `run` begins another"
            )
        return snapshot, state

    def last(self) -> RolloutState | None:
        """Return the last rollout, active or over; None if there was none or its record is gone."""
        return _found(self.target.read())

    def driver(self) -> str:
        """Return the holder of the lease if it was renewed lately, by this machine's clock; empty if there is none."""
        return self._living(self.target.read_lease())

    def controller(self) -> str:
        """Return the name of the controller that is alive here; empty if there is none, or it cannot be known."""
        if self.presence is None:
            return ""
        try:
            return self._living(self.presence.read_lease())
        except TargetError as error:  # an account from before controllers may not read this lease
            log.info("no_presence", detail=str(error))
            return ""

    def _living(self, lease: LeaseRecord) -> str:
        recent = self.clock.wall_s() - lease.renewed_at_s <= 2 * lease.duration_s
        return lease.holder if recent else ""

    def preview_abort(self) -> Sequence[Operation]:
        """Return the patch of the first rollback stage."""
        snapshot, state = self.active()
        return weigh(snapshot, state.but(phase=Phase.ROLLING_BACK))

    def preview(self, command: Command) -> Sequence[Operation]:
        """Return the patch that stores a command."""
        return command_patch(self.active()[0], command.value)

    def _lock(self) -> Lock:
        holder = f"{self.identity or f'{socket.gethostname()}-{os.getpid()}'}-{secrets.token_hex(3)}"
        return Lock(self.target, self.clock, holder=holder, duration_s=self.lease_s)


def _recorded(snapshot: Snapshot) -> RolloutState:
    """Return the recorded rollout. Raises StateError: a rollout without a record can only be aborted."""
    state = read_state(snapshot.deployment.metadata.annotations)
    if state is None:
        raise StateError(f"the record of this rollout is lost; `abort` returns all requests to {_stable(snapshot)}")
    return state


def _stable(snapshot: Snapshot) -> str:
    derived = derive_state(snapshot.deployment)
    return derived.stable if derived else snapshot.deployment.stable.name


def _found(snapshot: Snapshot) -> RolloutState | None:
    """Return the recorded rollout; if the record is lost and there is a canary, a rollout that can be aborted."""
    try:
        state = read_state(snapshot.deployment.metadata.annotations)
    except StateError as error:
        log.warning("record_lost", detail=str(error))
        return derive_state(snapshot.deployment)
    return state or derive_state(snapshot.deployment)
