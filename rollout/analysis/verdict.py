"""What a gate says, and how several gates become one verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum


class Verdict(StrEnum):
    """The five answers of a gate. Only `pass` promotes, only `fail` rolls back; the other three hold."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"
    ERROR = "error"


class OnDoubt(StrEnum):
    """What follows from a failure or a doubt that does not decide by itself: a person is asked, or a rollback."""

    HOLD = "hold"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer. `reason` is a sentence with its numbers; `needs_requests` counts further canary requests.

    `value` and `threshold` are shares of requests, or bits for the drift gate; None where there is nothing to say.
    The result of a `dry_run` gate is shown and recorded, and decides nothing. `asks`: the gate found a reason that a
    person must judge: the rollout is held until `promote` accepts it, or `abort`.
    """

    name: str
    verdict: Verdict
    reason: str
    needs_requests: int | None = None
    value: float | None = None
    threshold: float | None = None
    dry_run: bool = False
    asks: bool = False

    def __post_init__(self) -> None:
        """Refuse a number that JSON cannot hold."""
        for number in (self.value, self.threshold):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"gate {self.name} gave {number}: finite numbers only")

    def by(self, on_fail: OnDoubt) -> GateResult:
        """Return the result as it decides: with HOLD, a failure asks a person and does not roll back."""
        if self.verdict is not Verdict.FAIL or on_fail is OnDoubt.ROLLBACK or self.dry_run:
            return self
        return replace(self, verdict=Verdict.INCONCLUSIVE, asks=True)

    def accepted(self) -> GateResult:
        """Return the result after a person accepted what it asked."""
        return replace(self, verdict=Verdict.PASS, asks=False, reason=f"accepted by a person: {self.reason}")


def combine(results: Iterable[GateResult]) -> Verdict:
    """Return the verdict of all gates together, the worst first: fail, error, no data, inconclusive, pass.

    Dry-run gates decide nothing. No gate at all is no data: nothing measured is no reason to promote.
    """
    results = tuple(results)
    if not results:
        return Verdict.NO_DATA
    found = {result.verdict for result in results if not result.dry_run}
    for worst in (Verdict.FAIL, Verdict.ERROR, Verdict.NO_DATA, Verdict.INCONCLUSIVE):
        if worst in found:
            return worst
    return Verdict.PASS


def missing_evidence(results: tuple[GateResult, ...]) -> str:
    """Return a sentence with what the gates still wait for; gates that wait for the same are named together."""
    open_gates = [result for result in results if result.verdict is not Verdict.PASS and not result.dry_run]
    if not open_gates:
        return "all gates pass" if results else "nothing measured yet"
    missing = max((result.needs_requests or 0) for result in open_gates)
    names: dict[str, list[str]] = {}
    for result in open_gates:
        names.setdefault(result.reason, []).append(result.name)
    said = "; ".join(f"{', '.join(gates)}: {reason}" for reason, gates in names.items())
    return f"needs about {missing} more requests ({said})" if missing else said
