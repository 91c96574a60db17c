"""Time, as a port: the promoter measures with the monotonic clock, and only shows the wall clock.

The one retry policy of this package is here too: it sleeps on a clock, so that a test does not wait.
"""

from __future__ import annotations

import time
from typing import Protocol

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

log = structlog.get_logger(__name__)


class Clock(Protocol):
    """What measures time and lets it pass."""

    def wall_s(self) -> float:
        """Return Unix time, for people and logs; it may jump."""

    def monotonic_s(self) -> float:
        """Return seconds since some origin; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The machine's clock."""

    def wall_s(self) -> float:
        """Return Unix time."""
        return time.time()

    def monotonic_s(self) -> float:
        """Return CLOCK_MONOTONIC, which stands still while a laptop sleeps."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""
        time.sleep(seconds)


def retrying(
    clock: Clock, errors: tuple[type[Exception], ...], *, for_s: float, every_s: float, doing: str
) -> Retrying:
    """Return a policy: call it with a function, which is called again after each of these errors.

    for_s: counted from now; the first error after it is raised. doing: words for the log.
    """
    deadline_s = clock.monotonic_s() + for_s

    def over(_: RetryCallState) -> bool:
        return clock.monotonic_s() >= deadline_s

    def note(call: RetryCallState) -> None:
        log.warning("retry", doing=doing, detail=str(call.outcome.exception() if call.outcome else ""))

    return Retrying(
        sleep=clock.sleep,
        wait=wait_fixed(every_s),
        retry=retry_if_exception_type(errors),
        stop=over,
        before_sleep=note,
        reraise=True,
    )
