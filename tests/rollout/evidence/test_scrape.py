from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from rollout.analysis.counts import ZERO, Counts
from rollout.errors import EvidenceMalformed, EvidenceUnavailable, Unavailable
from rollout.evidence.scrape import ScrapeSource
from tests.support.metric_processes import Exporter, drip, misbehaving, reply
from tests.support.programs import free_port

PodStarter = Callable[..., Exporter]
Open = Callable[..., ScrapeSource]


@pytest.fixture
def v7(pod: PodStarter) -> Exporter:
    return pod("v7")


@pytest.fixture
def opened(keep: Callable[[ScrapeSource], ScrapeSource]) -> Open:
    """Opens a source over pods, or over a function that gives the pages of a predictor."""

    def open_source(
        *pods: Exporter,
        urls: Callable[[str], list[str]] | None = None,
        gateway: Callable[[], bytes] | None = None,
        timeout_s: float = 10.0,
    ) -> ScrapeSource:
        pages = urls or (lambda name: [each.url for each in pods if each.predictor == name])
        return keep(ScrapeSource(pages, gateway=gateway, timeout_s=timeout_s))

    return open_source


def test_what_was_counted_before_the_first_sample_is_not_the_rollouts(v7: Exporter, opened: Open) -> None:
    v7.count(100)
    reader = opened(v7)
    assert reader.sample(["v7"]).arms["v7"].total == ZERO
    v7.count(3, ms=3, scores=[0.0, 0.05, 0.051, 1.0])
    v7.count(2, ms=60, code=503)
    v7.count(1, ms=5000, code=422, route="v2_grpc")
    counts = reader.sample(["v7"]).arms["v7"].total
    assert (counts.requests, counts.errors, counts.rejected, counts.slow) == (6, 2, 1, 3)
    assert (counts.latency[2], counts.latency[7], counts.latency[11]) == (3, 2, 1)
    assert (counts.scores[0], counts.scores[1], counts.scores[19]) == (6, 3, 3)
    reader.close()  # and once more when the test ends


def test_routes_that_serve_no_predictions_are_left_out(v7: Exporter, opened: Open) -> None:
    reader = opened(v7)
    reader.sample(["v7"])
    v7.count(5, route="metadata")
    assert reader.sample(["v7"]).arms["v7"].total.requests == 0


def test_a_restarted_process_counts_on(v7: Exporter, opened: Open) -> None:
    v7.count(50, code=500)
    reader = opened(v7)
    reader.sample(["v7"])
    v7.count(10, code=500)
    assert reader.sample(["v7"]).arms["v7"].total.errors == 10
    v7.restart()
    v7.count(3, code=500)
    v7.count(2)
    counts = reader.sample(["v7"]).arms["v7"].total
    assert (counts.requests, counts.errors) == (15, 13)


def test_a_restart_that_one_counter_shows_resets_all_counters_of_the_process(v7: Exporter, opened: Open) -> None:
    """After the restart there are more errors than ever before, so the errors' own counter does not fall."""
    v7.count(100)
    v7.count(2, code=500)
    reader = opened(v7)
    reader.sample(["v7"])
    v7.restart()
    v7.count(5, code=500)
    assert reader.sample(["v7"]).arms["v7"].total.errors == 5


def test_pods_come_and_go_and_what_they_did_stays(pod: PodStarter, opened: Open) -> None:
    pods = [pod("v7")]
    reader = opened(urls=lambda _: [each.url for each in pods])
    reader.sample(["v7"])
    pods[0].count(5)
    pods.append(pod("v7"))
    pods[1].count(7)
    assert reader.sample(["v7"]).arms["v7"].total.requests == 12
    del pods[0]
    assert reader.sample(["v7"]).arms["v7"].total.requests == 12
    pods.clear()
    assert reader.sample(["v7"]).arms == {}


def test_a_predictor_without_processes_is_absent(v7: Exporter, opened: Open) -> None:
    assert set(opened(v7).sample(["v7", "v8"]).arms) == {"v7"}


def test_a_page_of_another_predictor_is_refused(v7: Exporter, opened: Open) -> None:
    """A port that a dead predictor left behind may belong to the next one."""
    reader = opened(urls=lambda _: [v7.url])
    with pytest.raises(EvidenceMalformed, match=r"should be predictor 'v8' and says it is \['v7'\]"):
        reader.sample(["v8"])


def test_a_process_that_does_not_answer_makes_the_evidence_unavailable(v7: Exporter, opened: Open) -> None:
    reader = opened(urls=lambda _: [v7.url, f"http://127.0.0.1:{free_port()}/metrics"])
    with pytest.raises(EvidenceUnavailable, match="cannot be read"):
        reader.sample(["v7"])


def page(requests: int, errors: int) -> bytes:
    """What Envoy counts of v7's callers over REST; it writes whole pages."""
    return f"""\
# TYPE envoy_cluster_upstream_rq_completed counter
envoy_cluster_upstream_rq_completed{{envoy_cluster_name="rest-v7"}} {requests}
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5",envoy_cluster_name="rest-v7"}} {errors}
""".encode()


def test_the_gateway_counts_the_callers_of_a_process_that_crashes(v7: Exporter, opened: Open) -> None:
    pages = iter([page(0, 0), page(50, 10), page(90, 40), page(100, 40)])
    reader = opened(v7, gateway=lambda: next(pages))
    before = reader.sample(["v7"])
    v7.count(40)
    first = reader.sample(["v7"])
    window = first.arms["v7"] - before.arms["v7"]
    assert window.total.requests == 40
    assert window.mesh == Counts(requests=50, errors=10)
    v7.kill()
    crashed = reader.sample(["v7"])
    assert crashed.arms["v7"].pods == {}
    assert (crashed.arms["v7"] - first.arms["v7"]).mesh == Counts(requests=40, errors=30)
    v7.start()
    v7.count(7)
    after = reader.sample(["v7"]).arms["v7"] - crashed.over(first).arms["v7"]
    assert after.total.requests == 7
    assert after.mesh == Counts(requests=10)


def warnings_of(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [event["event"] for event in events if event["log_level"] == "warning"]


def test_a_process_that_starts_is_no_page_lost_and_one_that_crashes_is_said_once(v7: Exporter, opened: Open) -> None:
    v7.kill()
    reader = opened(v7, gateway=lambda: page(0, 0))
    with capture_logs() as logged:
        reader.sample(["v7"])
        reader.sample(["v7"])
    assert warnings_of(logged) == []
    v7.start()
    reader.sample(["v7"])
    v7.kill()
    with capture_logs() as logged:
        reader.sample(["v7"])
        reader.sample(["v7"])
    assert warnings_of(logged) == ["page_lost"]


def test_a_gateway_that_does_not_answer_makes_the_evidence_unavailable(v7: Exporter, opened: Open) -> None:
    def gone() -> bytes:
        raise Unavailable("Envoy's admin socket did not answer")

    with pytest.raises(EvidenceUnavailable, match=r"gateway's statistics cannot be read: Envoy's admin socket"):
        opened(v7, gateway=gone).sample(["v7"])


def test_a_failed_sample_changes_nothing(v7: Exporter, opened: Open) -> None:
    urls = [v7.url]
    reader = opened(urls=lambda _: urls)
    reader.sample(["v7"])
    v7.count(4)
    urls.append(f"http://127.0.0.1:{free_port()}/metrics")
    with pytest.raises(EvidenceUnavailable):
        reader.sample(["v7"])
    urls.pop()
    assert reader.sample(["v7"]).arms["v7"].total.requests == 4


def test_a_page_that_is_no_metric_page_is_refused(opened: Open) -> None:
    with misbehaving([reply('serving_score_bucket{le="0.05" 3\n')]) as url:
        reader = opened(urls=lambda _: [url])
        with pytest.raises(EvidenceMalformed, match="is no metric page"):
            reader.sample(["v7"])


def test_an_answer_that_drips_is_cut_off(opened: Open) -> None:
    with misbehaving([drip]) as url:
        reader = opened(urls=lambda _: [url], timeout_s=1.0)
        with pytest.raises(EvidenceUnavailable, match="had not finished its answer after 1 s"):
            reader.sample(["v7"])
