"""Counts from the predictors themselves: no Prometheus is needed on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rollout.analysis.counts import LatencyScale
from rollout.errors import EvidenceMalformed
from rollout.evidence.histogram import REQUESTS, SCORES, Sample, Series, read
from rollout.evidence.http import exchange
from rollout.evidence.source import Ledger, Reading, joined


class ScrapeSource:
    """Reads the metric pages of every process of every predictor.

    `urls` maps a predictor's name to the pages of its processes as they are now; none is no data. Every page must
    answer: a process that is left out would make its errors invisible.
    """

    def __init__(
        self,
        urls: Callable[[str], Sequence[str]],
        *,
        scale: LatencyScale = LatencyScale(),  # noqa: B008 - frozen
        timeout_s: float = 2.0,
    ) -> None:
        self._urls = urls
        self._scale = scale
        self._reading = 0
        self._timeout_s = timeout_s
        self._client = httpx.Client()
        self._ledger = Ledger()

    def sample(self, predictors: Sequence[str]) -> Reading:
        """Return each predictor's cumulative counts; see `Source`. Each reading is a scrape of its own."""
        found = [
            series for predictor in predictors for url in self._urls(predictor) for series in self._page(predictor, url)
        ]
        self._reading += 1
        arms = joined(self._ledger.take(predictors, found), {})
        return Reading(arms, time.monotonic(), self._ledger.scrapes())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _page(self, predictor: str, url: str) -> list[Series]:
        # Plain text, said outright: the OpenMetrics form of the same page would need another parser.
        body = exchange(self._client, "GET", url, timeout_s=self._timeout_s, headers={"Accept": "text/plain"})
        try:
            samples = list(_samples(body.decode(), self._reading + 1))
        except ValueError as error:
            raise EvidenceMalformed(f"{url} is no metric page: {error}") from error
        histograms = read(samples, lambda _: url, scale=self._scale)
        strangers = {histogram.key.predictor for histogram in histograms} - {predictor}
        if strangers:
            raise EvidenceMalformed(f"{url} should be predictor {predictor!r} and says it is {sorted(strangers)}")
        return histograms


def _samples(page: str, reading: int) -> Iterator[Sample]:
    """Parse the lines that are wanted; they are a tenth of a page. The number of the reading stands for its time."""
    wanted = "".join(line + "\n" for line in page.splitlines() if line.startswith((REQUESTS, SCORES)))
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, ((float(reading), float(sample.value)),))
