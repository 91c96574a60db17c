"""Challengers: other bundles of the same contract that score the rows of the champion, after its answer has left.

They share the champion's fetched rows, so a shadow costs one scoring call and no second deployment. They run on the
thread of the records. One that fails is left out of the record; the champion's answer is long sent by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from numpy.typing import NDArray

from custom_runtime.errors import BundleError
from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.bundle import read_bundle
from custom_runtime.model.encoding import Matrix
from custom_runtime.model.scoring import Scorer, open_scorer

log = structlog.get_logger()


class ChallengerScores(NamedTuple):
    """What one challenger gave for n rows: scores [n] or [n, classes]."""

    version: str
    scores: NDArray[Any]


class Challengers:
    """Scores rows with every challenger. scorers: version -> scorer."""

    def __init__(self, scorers: Mapping[str, Scorer], metrics: ServingMetrics) -> None:
        self._scorers = dict(scorers)
        self._metrics = metrics
        self._failing: set[str] = set()

    @property
    def versions(self) -> list[str]:
        """The challengers' versions."""
        return list(self._scorers)

    def score(self, rows: Matrix) -> list[ChallengerScores]:
        """Return the scores of the challengers that gave them for all rows; a failure is logged once until it ends."""
        results = []
        for version, scorer in self._scorers.items():
            try:
                scores = scorer.score(rows)
                if len(scores) != len(rows):
                    raise ValueError(f"{len(scores)} scores for {len(rows)} rows")
            except Exception:
                self._metrics.count_challenger(version, "failed", len(rows))
                if version not in self._failing:
                    self._failing.add(version)
                    log.exception("challenger_failed", challenger=version)
                continue
            self._failing.discard(version)
            self._metrics.count_challenger(version, "scored", len(rows))
            results.append(ChallengerScores(version, scores))
        return results

    def skip(self, rows: int) -> None:
        """Count rows that no challenger scores, because the records are behind."""
        for version in self._scorers:
            self._metrics.count_challenger(version, "skipped", rows)


def open_challengers(directories: Sequence[Path], metrics: ServingMetrics, *, champion: str) -> Challengers | None:
    """Open the bundles of the challengers; None where there are none.

    Raises BundleError (also where two bundles, or one and the champion, have the same version) or ContractMismatch.
    """
    scorers: dict[str, Scorer] = {}
    for directory in directories:
        bundle = read_bundle(directory)
        if bundle.version == champion or bundle.version in scorers:
            raise BundleError(
                f"challenger {directory} is version {bundle.version}, which is already served or compared here; "
                "allowed: a version of its own for each bundle (SERVING_CHALLENGERS)"
            )
        scorers[bundle.version] = open_scorer(bundle)
    return Challengers(scorers, metrics) if scorers else None
