"""A circuit breaker: after repeated failures requests fail at once, and one of them at a time finds out when to go on.

circuitbreaker and purgatory let every request that comes in the half-open state through, pybreaker's asyncio needs
Tornado, and none takes a clock. What is wanted here (one probe per interval and process, no await) is this little.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

# One slow answer is not an outage; three in a row cost three requests their timeout.
THRESHOLD = 3
PROBE_INTERVAL_S = 0.5
# Each process probes at its own rhythm, so that a store that comes back is not met by all at the same moment.
JITTER = 0.2


class Breaker:
    """Closed: everything is admitted. Open: one request per interval is, and its success closes the breaker.

    A probe that is neither a success nor a failure (its caller went away) needs no clean-up: the next interval has
    its own.
    """

    def __init__(
        self,
        *,
        threshold: int = THRESHOLD,
        interval_s: float = PROBE_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._threshold = threshold
        self._interval_s = interval_s
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._next_probe_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether requests fail at once."""
        return self._failures >= self._threshold

    def admit(self) -> bool:
        """Say whether a request may try the store now; while open, a True is the interval's one probe."""
        if self._failures < self._threshold:
            return True
        if self._clock() < self._next_probe_s:
            return False
        self._schedule_probe()
        return True

    def succeed(self) -> None:
        """Record that the store answered."""
        self._failures = 0

    def fail(self) -> None:
        """Record that the store was down or slow."""
        self._failures += 1
        if self.is_open:
            self._schedule_probe()

    def _schedule_probe(self) -> None:
        spread = 1.0 - JITTER + 2.0 * JITTER * self._jitter()
        self._next_probe_s = self._clock() + self._interval_s * spread
