"""The port behind which the counts come from: Prometheus, or the predictors themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rollout.counts import Counts


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
