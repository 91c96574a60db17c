"""A request of the load client: on its way, and finished."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Ticket:
    """One request on its way. Times are seconds of time.perf_counter."""

    response_id: int  # LoadGen's
    index: int
    issued_s: float
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """One finished request; error is None, or the label it is counted under, with a detail for a person."""

    ticket: Ticket
    finished_s: float
    error: str | None
    detail: str = ""
