"""How long a process that died stays down before it is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling waits, as the kubelet's (10 s to 300 s), in the time of one machine.

    A process that stayed up for `reset_after_s` starts from the first wait again.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    reset_after_s: float = 60.0

    def wait_s(self, deaths: int) -> float:
        """Return the wait after the n-th death in a row (1 is the first)."""
        return float(min(self.first_s * 2 ** (deaths - 1), self.longest_s))

    def deaths_in_a_row(self, deaths: int, uptime_s: float) -> int:
        """Return how many deaths there are in a row now that a process died after `uptime_s`."""
        return 1 if uptime_s >= self.reset_after_s else deaths + 1
