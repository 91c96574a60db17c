"""The port behind which the counts come from: Prometheus, or the predictors themselves.

Running totals per predictor, made from counters of processes that restart, come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rollout.analysis.counts import ZERO, Counts
from rollout.evidence.histogram import Histogram, Key


class Source(Protocol):
    """Where the evidence of a rollout comes from."""

    def sample(self, predictors: Sequence[str]) -> Mapping[str, Counts]:
        """Return each predictor's cumulative counts since the first sample of this source.

        A window is the difference of two samples of the *same* source; after a restart of the caller the counts begin
        at zero again. A predictor without any series is absent: no data, which is not the same as zero. Raises
        EvidenceUnavailable (outage, timeout, 429: try again) or EvidenceMalformed (the answer cannot be trusted); a
        sample that raised has changed nothing.
        """

    def close(self) -> None:
        """Release the connections; closing twice is fine."""


class Ledger:
    """Adds up what the counters of each process gained between two readings.

    A predictor's first reading is its origin: what was counted before is not the rollout's. A process that appears
    later counts from zero. When a counter of a process has fallen, the process has restarted, and all its counters
    have begun at zero again. A process that disappears keeps what it has contributed.

    One thing stays unseen: a process that restarts and overtakes all its old counters between two readings.
    """

    def __init__(self) -> None:
        self._last: dict[Key, tuple[int, ...]] = {}
        self._totals: dict[str, Counts] = {}

    def take(self, predictors: Sequence[str], histograms: Iterable[Histogram]) -> Mapping[str, Counts]:
        """Enter one reading and return the totals of those predictors that have series in it."""
        histograms = [histogram for histogram in histograms if histogram.key.predictor in predictors]
        self._forget_restarted(histograms)
        for histogram in histograms:
            key = histogram.key
            if key.predictor in self._totals:
                self._totals[key.predictor] += histogram.counts(self._last.get(key))
            self._last[key] = histogram.buckets
        for predictor in predictors:
            self._totals.setdefault(predictor, ZERO)
        present = {histogram.key.predictor for histogram in histograms}
        return {predictor: self._totals[predictor] for predictor in predictors if predictor in present}

    def _forget_restarted(self, histograms: Sequence[Histogram]) -> None:
        restarted = {
            (histogram.key.predictor, histogram.key.process)
            for histogram in histograms
            if any(now < then for now, then in zip(histogram.buckets, self._last.get(histogram.key, ()), strict=False))
        }
        for key in [key for key in self._last if (key.predictor, key.process) in restarted]:
            del self._last[key]
