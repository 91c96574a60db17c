"""Counters of processes that restart, come and go, as one Prometheus sees them and as two behind one address do."""

import pytest

from rollout.analysis.counts import LatencyScale
from rollout.evidence.histogram import MESH_LATENCY, MESH_REQUESTS, REQUESTS, Sample, Series, read, read_mesh
from rollout.evidence.source import Ledger, Reading

SCALE = LatencyScale((10.0, 50.0), slo_ms=50.0)


def series(*points: tuple[float, int], pod: str = "a", code: str = "200") -> list[Series]:
    """A pod's requests, all of them fast: (time, count)."""
    labels = {"predictor": "v8", "route": "predict", "code": code, "pod": pod}
    values = tuple((at_s, float(count)) for at_s, count in points)
    samples = [Sample(REQUESTS, {**labels, "le": le}, values) for le in ("0.01", "0.05", "+Inf")]
    return read(samples, lambda labels: labels["pod"], scale=SCALE)


def requests(ledger: Ledger, *found: Series) -> int:
    return sum(counts.requests for counts in ledger.take(["v8"], found)["v8"].values())


def test_two_servers_behind_one_address_fabricate_nothing() -> None:
    """Their scrapes are 5 s apart, so a counter steps back whenever the answer comes from the one that is behind."""
    ledger = Ledger()
    last = 0
    for reading in range(200):
        now_s = 1000.0 + 10 * reading
        behind_s = 5.0 if reading % 2 else 0.0
        newest_s = now_s - behind_s - (15.0 if reading % 3 == 0 and behind_s else 0.0)
        times = [newest_s - 15 * back for back in (3, 2, 1, 0)]
        last = requests(ledger, *series(*((at_s, int(100 * at_s)) for at_s in times)))
    assert last <= 100 * 10 * 199  # 100 requests/s, and not one more
    assert last >= 100 * 10 * 199 - 2000
    assert {counts.restarts for counts in ledger.take(["v8"], series((4000.0, 400_000)))["v8"].values()} == {0}


def test_a_restart_that_both_servers_show_is_one() -> None:
    ledger = Ledger()
    requests(ledger, *series((85, 80), (100, 100)))
    assert requests(ledger, *series((85, 80), (100, 100), (115, 130), (130, 7))) == 30 + 7
    # The other server saw 140 before the restart, and then the same process.
    assert requests(ledger, *series((93, 90), (108, 120), (123, 140), (138, 20))) == 30 + 20
    assert ledger.take(["v8"], series((138, 20)))["v8"]["a"].restarts == 1


def test_what_was_counted_up_to_the_last_scrape_before_a_restart_stays() -> None:
    ledger = Ledger()
    requests(ledger, *series((10, 50)))
    assert requests(ledger, *series((10, 50), (20, 90), (30, 5), (40, 60))) == 40 + 60


def test_two_restarts_between_two_readings_are_two() -> None:
    ledger = Ledger()
    requests(ledger, *series((10, 50)))
    assert requests(ledger, *series((10, 50), (20, 5), (30, 1), (40, 60))) == 5 + 60
    assert ledger.take(["v8"], series((40, 60)))["v8"]["a"].restarts == 2


def test_a_smaller_value_that_is_not_newer_is_no_news() -> None:
    ledger = Ledger()
    requests(ledger, *series((100, 100)))
    assert requests(ledger, *series((85, 80), (95, 95))) == 0


def test_a_smaller_value_without_a_fall_in_its_own_series_is_a_clock_that_differs() -> None:
    ledger = Ledger()
    requests(ledger, *series((85, 80), (100, 100)))
    assert requests(ledger, *series((86, 79), (101, 99))) == 0
    assert requests(ledger, *series((100, 100), (115, 120))) == 20


def test_a_pod_that_only_this_server_had_not_shown_brings_no_history() -> None:
    ledger = Ledger()
    requests(ledger, *series((85, 10), (100, 20), pod="a"))
    found = [*series((85, 10), (100, 20), (115, 30), pod="a"), *series((80, 9000), (95, 9100), (110, 9250), pod="b")]
    assert requests(ledger, *found) == 10 + 150


def test_a_pod_that_is_new_counts_from_zero() -> None:
    ledger = Ledger()
    requests(ledger, *series((85, 10), (100, 20), pod="a"))
    assert requests(ledger, *series((100, 20), (115, 30), pod="a"), *series((112, 40), pod="b")) == 10 + 40


def test_a_reading_settles_when_most_pods_of_each_predictor_were_scraped_twice_more() -> None:
    then = Reading(scrapes={"v7": {"a": 3, "b": 3}, "v8": {"c": 1}}, settle=2)
    assert not Reading(scrapes={"v7": {"a": 5, "b": 5}, "v8": {"c": 2}}, settle=2).settled_since(then)
    assert Reading(scrapes={"v7": {"a": 5, "b": 5}, "v8": {"c": 3}}, settle=2).settled_since(then)
    assert not Reading(scrapes={"v7": {"a": 5, "b": 4}, "v8": {"c": 3}}, settle=2).settled_since(then)
    # A pod that is new has only been scraped since, and one that is gone is waited for by nobody.
    assert Reading(scrapes={"v7": {"a": 5}, "v8": {"c": 3, "d": 0}}, settle=2).settled_since(then)


def mesh(name: str, code: str, value: float, **labels: str) -> Sample:
    own = {"destination_service_name": "churn-v8", "response_code": code, "pod": "gateway-0", **labels}
    return Sample(name, own, ((10.0, value),))


def test_the_mesh_counts_what_never_reached_a_pod() -> None:
    """503 by the gateway, and 0 for a connection that broke; slow is what lies above the objective."""
    edges = {"25": 60.0, "50": 90.0, "+Inf": 100.0}
    samples = [
        mesh(MESH_REQUESTS, "200", 100),
        mesh(MESH_REQUESTS, "503", 7, response_flags="UF"),
        mesh(MESH_REQUESTS, "503", 2, response_flags="UH"),
        mesh(MESH_REQUESTS, "0", 3, response_flags="UC"),
        mesh(MESH_REQUESTS, "404", 4),
        *(mesh(MESH_LATENCY, "200", value, le=le) for le, value in edges.items()),
        mesh(MESH_REQUESTS, "200", 50, destination_service_name="other"),
    ]
    zero = [Sample(sample.name, sample.labels, ((5.0, 0.0),)) for sample in samples]
    ledger = Ledger()
    whose = {"churn-v8": "v8"}
    for found in (zero, samples):
        taken = ledger.take(
            ["v8"], read_mesh(found, lambda labels: whose.get(labels["destination_service_name"], ""), slo_ms=50.0)
        )
    (counts,) = taken["v8"].values()
    assert (counts.requests, counts.errors, counts.rejected, counts.slow) == (116, 12, 4, 10)


def test_an_objective_that_the_meshs_buckets_do_not_have_is_refused() -> None:
    samples = [mesh(MESH_LATENCY, "200", value, le=le) for le, value in {"25": 1.0, "+Inf": 2.0}.items()]
    with pytest.raises(Exception, match="no edge at the objective of 50 ms, only 25, inf"):
        read_mesh(samples, lambda _: "v8", slo_ms=50.0)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"response_code": "499"}, (10, 0, 0)),
        ({"response_code": "408"}, (0, 0, 0)),
        ({"response_code": "0", "response_flags": "DC"}, (10, 0, 0)),
        ({"response_code": "503", "response_flags": "UC,DC"}, (10, 0, 0)),
        ({"response_code": "200", "request_protocol": "grpc", "grpc_response_status": "14"}, (10, 10, 0)),
        ({"response_code": "200", "request_protocol": "grpc", "grpc_response_status": "5"}, (10, 0, 10)),
        ({"response_code": "200", "request_protocol": "grpc", "grpc_response_status": "1"}, (10, 0, 0)),
    ],
)
def test_what_a_caller_has_caused_is_no_error_of_the_mesh(
    labels: dict[str, str], expected: tuple[int, int, int]
) -> None:
    ledger = Ledger()
    for value in (0, 10):
        own = {"destination_service_name": "churn-v8", "pod": "gateway-0", **labels}
        found = read_mesh([Sample(MESH_REQUESTS, own, ((float(value), float(value)),))], lambda _: "v8", slo_ms=50.0)
        (counts,) = ledger.take(["v8"], found)["v8"].values()
    assert (counts.requests, counts.errors, counts.rejected) == expected


@pytest.mark.parametrize(("code", "expected"), [("499", 10), ("408", 0)])
def test_what_a_caller_has_caused_is_neither_an_error_nor_a_rejection(code: str, expected: int) -> None:
    ledger = Ledger()
    requests(ledger, *series((10, 0), code=code))
    assert requests(ledger, *series((10, 0), (20, 10), code=code)) == expected
    (counts,) = ledger.take(["v8"], series((20, 10), code=code))["v8"].values()
    assert (counts.errors, counts.rejected) == (0, 0)
