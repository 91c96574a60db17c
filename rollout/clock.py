"""Time, as a port: the promoter measures with the monotonic clock, and only shows the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time and lets it pass."""

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
