"""What a soak test found, and what of it is a complaint: something lost, or something that grew."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from benchmarks.soak_fault import ROLL, Fault
from benchmarks.soak_sample import Sample
from benchmarks.traffic import Outcome

# A worker that was just rolled fills its pools and buffers by some 30 MB in its first half minute under load.
SETTLING_S = 30.0
# What a settled worker may grow by: a leak of 1 kB a request would be 30 MB in the second half of 10 minutes.
GROWTH_MB, GROWTH_FILES, GROWTH_TASKS = 15.0, 8, 8
UNSETTLED_MB = 40.0
ALLOWED = ("200", "503 store_unavailable", "503 overloaded", "gone")


class Growth(NamedTuple):
    """What an average worker has more of at the end; allowed_mb: more where there was no time to settle."""

    memory_mb: float
    files: float
    tasks: float
    allowed_mb: float


@dataclass(slots=True)
class SoakResult:
    """What happened."""

    workers: int = 2
    sent: int = 0
    inflight_at_end: float = 0.0
    started_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def results(self) -> Counter[str]:
        """How often each result was seen."""
        return Counter(one.result for one in self.outcomes)

    @property
    def lost(self) -> int:
        """How many requests were sent and got no answer."""
        return sum(one.is_lost for one in self.outcomes)

    @property
    def complaints(self) -> list[str]:
        """Why the run failed; empty when it did not."""
        found = []
        if self.sent != len(self.outcomes):
            found.append(f"{self.sent} requests were sent, {len(self.outcomes)} are accounted for")
        found += [f"{count} x {result}" for result, count in self.results.items() if not result.startswith(ALLOWED)]
        if not self.results["200"]:
            found.append("no request was answered with 200")
        growth = self.growth
        for what, grown, allowed in (
            ("MB", growth.memory_mb, growth.allowed_mb),
            ("files", growth.files, GROWTH_FILES),
            ("tasks", growth.tasks, GROWTH_TASKS),
        ):
            if grown > allowed:
                found.append(f"a worker grew by {grown:.0f} {what}; allowed: {allowed:g}")
        if self.inflight_at_end:
            found.append(f"{self.inflight_at_end:g} requests are still in flight; allowed: 0")
        return found

    @property
    def growth(self) -> Growth:
        """How much a worker grew from when all had settled after the last roll until the end."""
        rolled_s = max((fault.to_s for fault in self.faults if fault.kind == ROLL), default=0.0)
        ended_s = self.samples[-1].at_s if self.samples else 0.0
        settled_s = min(rolled_s + SETTLING_S, (rolled_s + ended_s) / 2)
        settled = [one for one in self.samples if one.at_s >= settled_s]
        fifth = len(settled) // 5
        if not fifth:
            return Growth(0.0, 0.0, 0.0, GROWTH_MB)
        early, late = settled[:fifth], settled[-fifth:]
        allowed_mb = GROWTH_MB if settled_s >= rolled_s + SETTLING_S else UNSETTLED_MB
        return Growth(
            median(one.memory_mb for one in late) - median(one.memory_mb for one in early),
            median(one.files for one in late) - median(one.files for one in early),
            median(one.tasks for one in late) - median(one.tasks for one in early),
            allowed_mb,
        )
