"""Counts from the predictors themselves: no Prometheus is needed on one machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from rollout.analysis.counts import Counts
from rollout.errors import EvidenceMalformed
from rollout.evidence.histogram import REQUESTS, SCORES, Histogram, Sample, read
from rollout.evidence.http import exchange
from rollout.evidence.source import Ledger


class ScrapeSource:
    """Reads the metric pages of every process of every predictor.

    `urls` maps a predictor's name to the pages of its processes as they are now; none is no data. Every page must
    answer: a process that is left out would make its errors invisible.
    """

    def __init__(self, urls: Callable[[str], Sequence[str]], *, timeout_s: float = 2.0) -> None:
        self._urls = urls
        self._timeout_s = timeout_s
        self._client = httpx.Client()
        self._ledger = Ledger()

    def sample(self, predictors: Sequence[str]) -> dict[str, Counts]:
        """Return each predictor's cumulative counts; see `Source`."""
        found = [
            histogram
            for predictor in predictors
            for url in self._urls(predictor)
            for histogram in self._page(predictor, url)
        ]
        return dict(self._ledger.take(predictors, found))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _page(self, predictor: str, url: str) -> list[Histogram]:
        # Plain text, said outright: the OpenMetrics form of the same page would need another parser.
        body = exchange(self._client, "GET", url, timeout_s=self._timeout_s, headers={"Accept": "text/plain"})
        try:
            samples = list(_samples(body.decode()))
        except ValueError as error:
            raise EvidenceMalformed(f"{url} is no metric page: {error}") from error
        histograms = read(samples, lambda _: url)
        strangers = {histogram.key.predictor for histogram in histograms} - {predictor}
        if strangers:
            raise EvidenceMalformed(f"{url} should be predictor {predictor!r} and says it is {sorted(strangers)}")
        return histograms


def _samples(page: str) -> Iterator[Sample]:
    """Parse the lines that are wanted; they are a tenth of a page."""
    wanted = "".join(line + "\n" for line in page.splitlines() if line.startswith((REQUESTS, SCORES)))
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, float(sample.value))
