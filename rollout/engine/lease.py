"""The lease of a rollout: which promoter may drive it, without trust in the clock of another machine.

A lease counts as expired when its record did not change for its whole duration *while we watched*, as in client-go.
Renewal times of other machines are shown and never compared. The lease only prevents two promoters from working at the
same time. The `test` of the state annotation makes late writes harmless. Therefore the lease never blocks a rollback:
if it cannot be read or written, the promoter continues without it.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from rollout.clock import Clock
from rollout.errors import Conflict, LeaseHeld, LeaseLost, NotFound, TargetError
from rollout.targets.target import LeaseRecord, LeaseStore

log = structlog.get_logger(__name__)


class Lock:
    """The lease as one promoter uses it. holder: unique to this process."""

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
        """The fencing token: it grows with every new holder."""
        return self._record.transitions

    def acquire(self) -> None:
        """Take the lease; take an abandoned one after watching it for its duration.

        Raises LeaseHeld, which names the holder, and TargetError when the lease cannot be read or written.
        """
        found = self._store.read_lease()
        if found.holder not in ("", self._holder):
            found = self._watch(found)
        try:
            self._write(replace(found, transitions=found.transitions + 1, acquired_at_s=self._clock.wall_s()))
        except Conflict as error:
            raise LeaseHeld("another promoter took the lease at the same moment; see `status`") from error

    def go_without(self) -> None:
        """Work without the lease, and take it when possible: another holder is no reason to stop."""
        self._required = False

    def renew(self) -> None:
        """Extend the lease after a third of its duration. Raises LeaseLost when another promoter has it.

        Other failures are ignored: an API server that does not answer, a permission that was revoked, a lease that was
        deleted (it is created again). A promoter that takes over meanwhile fences this promoter's writes.
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
        """Extend the lease during a rollback, which continues whoever holds it."""
        try:
            self.renew()
        except LeaseLost as error:
            log.warning("lease_lost_while_rolling_back", detail=str(error))

    def release(self) -> None:
        """Release the lease, if this promoter still holds it."""
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
                    "follow it with `status --watch`, steer it with `pause`, `promote` or `abort`",
                    holder=seen.holder,
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
