"""The lease of a rollout: which promoter may drive it, decided without trusting the clock of another machine.

A lease counts as expired when its record did not change for its whole duration *while we watched*, as client-go does
it; renewal times of other machines are shown and never compared. The lease only keeps two promoters from working at
once; that a late writer does no harm is the state annotation's `test`. So the lease never stands in the way of a
rollback: where it cannot be read or written, the promoter goes on without it.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from rollout.clock import Clock
from rollout.errors import Conflict, LeaseHeld, LeaseLost, NotFound, TargetError
from rollout.targets.target import LeaseRecord, LeaseStore

log = structlog.get_logger(__name__)


class Lock:
    """One promoter's hold on the lease. holder: unique to this process."""

    def __init__(self, store: LeaseStore, clock: Clock, *, holder: str, duration_s: int = 15) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._duration_s = duration_s
        self._record = LeaseRecord()
        self._tried_s = 0.0
        self._required = True

    @property
    def fence(self) -> int:
        """The fencing token: grows with every new holder."""
        return self._record.transitions

    def acquire(self) -> None:
        """Take the lease; an abandoned one after watching it for its duration.

        Raises LeaseHeld naming the holder, and TargetError where the lease cannot be read or written.
        """
        found = self._store.read_lease()
        if found.holder not in ("", self._holder):
            found = self._watch(found)
        try:
            self._write(replace(found, transitions=found.transitions + 1))
        except Conflict as error:
            raise LeaseHeld("another promoter took the lease at the same moment; see `status`") from error

    def go_without(self) -> None:
        """Work without the lease, and take it when that becomes possible: another holder is no reason to stop."""
        self._required = False

    def renew(self) -> None:
        """Extend the lease when a third of it is over. Raises LeaseLost when another promoter has it.

        Any other failure is no loss: an API server that does not answer, a right that was taken away, a lease that
        was deleted (it is made again). Whoever takes over meanwhile fences this promoter's writes.
        """
        if self._clock.monotonic_s() - self._tried_s < self._duration_s / 3:
            return
        self._tried_s = self._clock.monotonic_s()
        try:
            try:
                self._write(self._record)
            except (Conflict, NotFound):
                found = self._store.read_lease()
                if found.holder not in ("", self._holder):
                    if not self._required:
                        return
                    raise LeaseLost(f"{found.holder} took the lease over; this promoter stops") from None
                self._write(replace(found, transitions=max(found.transitions, self.fence)))
        except TargetError as error:
            log.warning("lease_not_renewed", detail=str(error))

    def keep(self) -> None:
        """Extend the lease during a rollback, which goes on whoever has it."""
        try:
            self.renew()
        except LeaseLost as error:
            log.warning("lease_lost_while_rolling_back", detail=str(error))

    def release(self) -> None:
        """Give the lease back, if it still is this promoter's."""
        try:
            self._store.write_lease(replace(self._record, holder="", renewed_at_s=self._clock.wall_s()))
        except TargetError:  # it expires by itself
            return

    def _watch(self, found: LeaseRecord) -> LeaseRecord:
        deadline_s = self._clock.monotonic_s() + found.duration_s
        while self._clock.monotonic_s() < deadline_s:
            self._clock.sleep(min(1.0, found.duration_s / 5))
            seen = self._store.read_lease()
            if seen.version != found.version and seen.holder:
                raise LeaseHeld(
                    f"{seen.holder} drives this rollout and renewed its lease just now; "
                    "follow it with `status --watch`, steer it with `pause`, `promote` or `abort`"
                )
            if not seen.holder:
                return seen
        return found

    def _write(self, record: LeaseRecord) -> None:
        now_s = self._clock.monotonic_s()
        self._record = self._store.write_lease(
            replace(record, holder=self._holder, duration_s=self._duration_s, renewed_at_s=self._clock.wall_s())
        )
        self._tried_s = now_s
