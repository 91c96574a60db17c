"""Against a real Prometheus that scrapes real processes."""

import operator
import uuid
from collections.abc import Callable
from functools import partial

import pytest

from rollout.analysis.counts import ZERO
from rollout.errors import EvidenceMalformed
from rollout.evidence.prometheus import PrometheusSource
from tests.support.metric_processes import Exporter, Prometheus, counts_when, until

pytestmark = pytest.mark.integration
LOOKBACK_S = 5.0  # ten scrapes; a pod that is gone is known for as long


class Cluster:
    """The Prometheus with pods of one predictor, whose name is this test's own: the Prometheus remembers."""

    def __init__(
        self,
        prometheus: Prometheus,
        start: Callable[..., Exporter],
        keep: Callable[[PrometheusSource], PrometheusSource],
    ) -> None:
        self.prometheus, self._start, self._keep = prometheus, start, keep
        self.name = f"v7.{uuid.uuid4().hex[:8]}"
        self._counted = 0

    def pod(self, **counted: object) -> Exporter:
        """A pod that has counted something before anybody looked."""
        exporter = self._start(self.name, self.prometheus.take())
        if counted:
            exporter.count(**counted)  # type: ignore[arg-type]
            self._counted += int(str(counted["times"]))
        return exporter

    def scraped(self, pods: int) -> None:
        """Wait until that many pods of the predictor are known."""
        known = f'count(serving_score_count{{predictor="{self.name}",job="pods"}})'
        until(partial(self.prometheus.ask, known), partial(operator.eq, pods))

    def source(self, **settings: object) -> PrometheusSource:
        return self._keep(PrometheusSource(self.prometheus.url, lookback_s=LOOKBACK_S, **settings))  # type: ignore[arg-type]

    def watched(self, pods: int = 1) -> PrometheusSource:
        """A source whose origin is set: the pods are known with all that they have counted, and sampled once."""
        self.scraped(pods)
        known = f'sum(serving_request_seconds_count{{predictor="{self.name}",job="pods"}})'
        until(partial(self.prometheus.ask, known), partial(operator.eq, self._counted))
        source = self.source()
        assert source.sample([self.name]).arms[self.name].total == ZERO
        return source


@pytest.fixture
def cluster(
    prometheus: Prometheus, pod: Callable[..., Exporter], keep: Callable[[PrometheusSource], PrometheusSource]
) -> Cluster:
    return Cluster(prometheus, pod, keep)


def test_counts_are_whole_and_exact(cluster: Cluster) -> None:
    """`increase()` would extrapolate these seven requests to a fraction."""
    pod = cluster.pod(times=40)
    source = cluster.watched()
    pod.count(4, ms=3, scores=[0.31])
    pod.count(2, ms=60, code=503)
    pod.count(1, ms=3, code=404, route="v2_rest")
    counts = counts_when(source, cluster.name, lambda counts: counts.requests >= 7)
    assert (counts.requests, counts.errors, counts.rejected, counts.slow, counts.scores[6]) == (7, 2, 1, 2, 4)


def test_pods_of_one_predictor_are_added(cluster: Cluster) -> None:
    pods = [cluster.pod(), cluster.pod()]
    source = cluster.watched(2)
    pods[0].count(3)
    counts_when(source, cluster.name, lambda counts: counts.requests == 3)
    pods[1].count(4, code=500)
    assert counts_when(source, cluster.name, lambda counts: counts.requests == 7).errors == 4


def test_a_pod_that_restarts_counts_on(cluster: Cluster) -> None:
    pod = cluster.pod()
    source = cluster.watched()
    pod.count(20, code=500)
    counts_when(source, cluster.name, lambda counts: counts.errors == 20)
    pod.restart()
    pod.count(6, code=500)
    assert counts_when(source, cluster.name, lambda counts: counts.errors >= 26).errors == 26


def test_a_pod_that_disappears_keeps_its_share_and_without_pods_there_is_no_data(cluster: Cluster) -> None:
    staying, leaving = cluster.pod(), cluster.pod()
    source = cluster.watched(2)
    leaving.count(5)
    counts_when(source, cluster.name, lambda counts: counts.requests == 5)
    leaving.kill()
    cluster.scraped(1)
    staying.count(2)
    assert counts_when(source, cluster.name, lambda counts: counts.requests >= 7).requests == 7
    staying.kill()
    until(lambda: source.sample([cluster.name]).arms, lambda seen: seen == {})


def test_a_pod_that_is_added_counts_from_its_start(cluster: Cluster) -> None:
    cluster.pod(times=10)
    source = cluster.watched()
    cluster.pod(times=3)
    assert counts_when(source, cluster.name, lambda counts: counts.requests >= 3).requests == 3


def test_a_predictor_that_nobody_scrapes_is_absent(cluster: Cluster) -> None:
    cluster.pod()
    source = cluster.watched()
    assert set(source.sample([cluster.name, "v8"]).arms) == {cluster.name}
    assert source.sample([]).arms == {}
    assert source.sample([cluster.name.replace(".", "x"), ".*", 'v"}']).arms == {}  # a name is no pattern


def test_series_that_the_selector_leaves_out_are_absent(cluster: Cluster) -> None:
    cluster.pod()
    cluster.scraped(1)
    assert set(cluster.source(selector={"model": "churn", "job": "pods"}).sample([cluster.name]).arms) == {cluster.name}
    assert cluster.source(selector={"model": 'fraud"'}).sample([cluster.name]).arms == {}


def test_a_pod_scraped_by_two_jobs_is_refused_until_one_is_selected(cluster: Cluster) -> None:
    """Adding the series would count each request twice."""
    cluster.prometheus.free.append(cluster.prometheus.doubled)  # the next that is taken
    cluster.pod()
    doubled = f'count(serving_score_count{{predictor="{cluster.name}"}})'
    until(partial(cluster.prometheus.ask, doubled), partial(operator.eq, 2))
    with pytest.raises(
        EvidenceMalformed, match=r"exists twice, differing in \{'job': \('(pods', 'again|again', 'pods)'\)\}"
    ):
        cluster.source().sample([cluster.name])
    assert set(cluster.source(selector={"job": "again"}).sample([cluster.name]).arms) == {cluster.name}
