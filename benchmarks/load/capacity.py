"""SLO capacity: the highest arrival rate at which a load test still passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

LOWEST_QPS = 1.0
BACK_OFF = 0.95
ATTEMPTS = 2
# A lower rate asks less of the client: one that cannot send at so many in a row has no core to itself at any.
MOST_CLIENT_RATES = 3


class Verdict(Protocol):
    """What the search needs of a result; LoadResult is one."""

    @property
    def valid(self) -> bool:
        """Whether the bound was held without an error."""

    @property
    def bottleneck(self) -> str | None:
        """Why the client set the figures; None when it did not."""


V = TypeVar("V", bound=Verdict)


@dataclass(frozen=True, slots=True)
class Trial(Generic[V]):
    """One rate that was tried."""

    qps: float
    result: V


@dataclass(frozen=True, slots=True)
class Capacity(Generic[V]):
    """The search's outcome. peak: the confirmed trial, None: no rate passed; at_least: the client was the limit."""

    peak: Trial[V] | None
    trials: tuple[Trial[V], ...]
    at_least: bool


def find_peak(
    measure: Callable[[float], V],
    confirm: Callable[[float], V],
    start_qps: float,
    *,
    precision: float = 0.05,
    step: float = 2.0,
) -> Capacity[V]:
    """Bracket the peak in steps up or down, bisect it geometrically, then confirm it; 5 % less each time that fails.

    A rate that fails is tried once more: what else a machine does only ever makes a server look slower.
    step: by what a rate is multiplied or divided until the peak is between two of them. precision: how far apart, as a
    share, the highest rate that passed and the lowest that failed may stay. A rate at which the client was the
    bottleneck bounds the search as a failed one does, and says nothing about the server; three of them in a row, each
    lower than the one before, end it.
    """
    trials: list[Trial[V]] = []
    by_client: set[float] = set()

    def holds(qps: float, run: Callable[[float], V]) -> bool:
        for _ in range(ATTEMPTS):
            result = run(qps)
            trials.append(Trial(qps, result))
            if result.valid and not result.bottleneck:
                by_client.discard(qps)
                return True
            if result.bottleneck:
                by_client.add(qps)
        return False

    low, high = _bracket(lambda qps: holds(qps, measure), by_client, start_qps, step)
    if low is None:
        return Capacity(None, tuple(trials), bool(by_client))
    while high / low > 1 + precision:
        middle = (low * high) ** 0.5
        if holds(middle, measure):
            low = middle
        else:
            high = middle
    at_least = high in by_client
    while low >= LOWEST_QPS:
        if holds(low, confirm):
            return Capacity(trials[-1], tuple(trials), at_least)
        low *= BACK_OFF
    return Capacity(None, tuple(trials), at_least)


def _bracket(
    holds: Callable[[float], bool], by_client: set[float], start_qps: float, step: float
) -> tuple[float | None, float]:
    """Return the highest rate known to hold (None: none does) and the lowest known not to."""
    if holds(start_qps):
        low = start_qps
        while holds(low * step):
            low *= step
        return low, low * step
    high = start_qps
    of_client = int(high in by_client)
    while high / step >= LOWEST_QPS and of_client < MOST_CLIENT_RATES:
        if holds(high / step):
            return high / step, high
        high /= step
        of_client = of_client + 1 if high in by_client else 0
    return None, high
