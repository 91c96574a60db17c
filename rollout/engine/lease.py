"""The lock of a rollout: who may drive it, judged without trusting anybody else's clock.

A lease counts as expired when its record stood still for its whole duration *while we watched*, as client-go does it;
renewal times of other machines are shown and never compared. The lock only keeps two promoters from working at once;
that a late writer does no harm is the state annotation's `test`.
"""

from __future__ import annotations

from dataclasses import replace

from rollout.clock import Clock
from rollout.errors import Conflict, LeaseHeld, LeaseLost, TargetError, Unavailable
from rollout.targets.target import LeaseRecord, LeaseStore


class Lock:
    """One promoter's hold on the lease. holder: unique to this process."""

    def __init__(self, store: LeaseStore, clock: Clock, *, holder: str, duration_s: int = 15) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._duration_s = duration_s
        self._record = LeaseRecord()
        self._renewed_s = 0.0

    @property
    def fence(self) -> int:
        """The fencing token: grows with every new holder."""
        return self._record.transitions

    def acquire(self) -> None:
        """Take the lease; an abandoned one after watching it for its duration. Raises LeaseHeld naming the holder."""
        found = self._store.read_lease()
        if found.holder not in ("", self._holder):
            found = self._watch(found)
        try:
            self._write(replace(found, transitions=found.transitions + 1))
        except Conflict as error:
            raise LeaseHeld("another promoter took the lease at the same moment; see `status`") from error

    def renew(self) -> None:
        """Prolong the lease when a third of it is over. Raises LeaseLost when somebody else has it.

        An API server that does not answer is no loss: whoever takes over meanwhile fences this promoter's writes.
        """
        if self._clock.monotonic_s() - self._renewed_s < self._duration_s / 3:
            return
        try:
            self._write(self._record)
        except Conflict:
            found = self._store.read_lease()
            if found.holder != self._holder:
                raise LeaseLost(f"{found.holder or 'somebody'} took the lease over; this promoter stops") from None
            self._write(found)
        except Unavailable:
            return

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
        self._renewed_s = now_s
