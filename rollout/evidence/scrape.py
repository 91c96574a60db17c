"""Counts from the predictors themselves, and from the gateway before them: one machine needs no Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import structlog
from prometheus_client.parser import text_string_to_metric_families

from rollout.analysis.counts import LatencyScale
from rollout.errors import EvidenceMalformed, EvidenceUnavailable, TargetError
from rollout.evidence.envoy_stats import gateway_series
from rollout.evidence.histogram import REQUESTS, SCORES, Sample, Series, read
from rollout.evidence.http import exchange
from rollout.evidence.source import Ledger, Reading, joined

log = structlog.get_logger(__name__)


class ScrapeSource:
    """Reads the metric pages of every process of every predictor, and the statistics of the gateway.

    `urls` maps a predictor's name to the pages of its processes as they are now; none is no data. Every page must
    answer: a process that is left out would make its errors invisible. With a gateway, a predictor with a page that
    does not answer has its callers' view only, since a process that crashes must not stop the judgement.
    `gateway` returns Envoy's statistics and may raise TargetError.
    """

    def __init__(
        self,
        urls: Callable[[str], Sequence[str]],
        *,
        gateway: Callable[[], bytes] | None = None,
        scale: LatencyScale = LatencyScale(),  # noqa: B008 - frozen
        timeout_s: float = 2.0,
    ) -> None:
        self._urls = urls
        self._gateway = gateway
        self._scale = scale
        self._reading = 0
        self._answered: set[str] = set()
        self._timeout_s = timeout_s
        self._client = httpx.Client()
        self._pods = Ledger()
        self._gateways = Ledger()

    def sample(self, predictors: Sequence[str]) -> Reading:
        """Return each predictor's cumulative counts; see `Source`. Each reading is a scrape of its own."""
        gateway = self._gateway_series()
        found = [series for predictor in predictors for series in self._predictor(predictor)]
        # All answers are there: from here on nothing fails, so a sample that raised has changed nothing.
        self._reading += 1
        arms = joined(self._pods.take(predictors, found), self._gateways.take(predictors, gateway))
        return Reading(arms, time.monotonic(), self._pods.scrapes())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _gateway_series(self) -> list[Series]:
        if self._gateway is None:
            return []
        try:
            page = self._gateway()
        except TargetError as error:
            raise EvidenceUnavailable(f"the gateway's statistics cannot be read: {error}") from error
        return gateway_series(page, at_s=float(self._reading + 1), slo_ms=self._scale.slo_ms)

    def _predictor(self, predictor: str) -> list[Series]:
        found: list[Series] = []
        for url in self._urls(predictor):
            try:
                found += self._page(predictor, url)
                self._answered.add(url)
            except EvidenceUnavailable as error:
                if self._gateway is None:
                    raise
                if url in self._answered:  # before its first answer a process is starting; later the loss is said once
                    self._answered.remove(url)
                    log.warning("page_lost", predictor=predictor, detail=str(error))
                return []
        return found

    def _page(self, predictor: str, url: str) -> list[Series]:
        # Ask for plain text: the OpenMetrics format of the same page needs another parser.
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
