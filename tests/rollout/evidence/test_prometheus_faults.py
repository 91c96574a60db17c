"""Every way a metric source can fail, from a real socket: none may become a verdict."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rollout.analysis.counts import LATENCY_EDGES_MS, Counts
from rollout.errors import EvidenceMalformed, EvidenceUnavailable
from rollout.evidence.prometheus import AUTHORIZATION_ENV, PrometheusSource
from tests.support.metric_processes import misbehaving, reply
from tests.support.programs import free_port

EDGES = [*(str(edge / 1000) for edge in LATENCY_EDGES_MS), "+Inf"]


def series(le: str, value: str, at_s: float = 0.0, **labels: str) -> dict[str, Any]:
    own = {"model": "churn", "version": "7", "predictor": "v7", "route": "predict", "code": "200", "instance": "a:1"}
    at_s = at_s or (float(value) if value.isdigit() else 1.0)  # what has counted more was scraped later
    return {
        "metric": {"__name__": "serving_request_seconds_bucket", "le": le, **own, **labels},
        "values": [[at_s, value]],
    }


def matrix(*found: dict[str, Any], **extra: Any) -> bytes:
    return reply(json.dumps({"status": "success", "data": {"resultType": "matrix", "result": found}, **extra}))


def histogram(value: str = "5", **labels: str) -> list[dict[str, Any]]:
    return [series(le, value, 0.0, **labels) for le in EDGES]


def sample(*answers: bytes | None, timeout_s: float = 10.0) -> dict[str, Counts]:
    with misbehaving(answers) as url, closing(PrometheusSource(url, timeout_s=timeout_s)) as source:
        for _ in answers[1:]:
            source.sample(["v7"])
        return {name: arm.total for name, arm in source.sample(["v7"]).arms.items()}


def test_an_empty_answer_is_no_data() -> None:
    assert sample(matrix()) == {}


def test_values_grow_between_samples() -> None:
    assert sample(matrix(*histogram("5")), matrix(*histogram("8")))["v7"].requests == 3


def test_series_of_several_pods_are_added() -> None:
    before, after = (histogram(value) + histogram(value, instance="b:1") for value in ("5", "7"))
    assert sample(matrix(*before), matrix(*after))["v7"].requests == 4


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1"])
def test_a_value_that_is_no_count_is_refused(value: str) -> None:
    with pytest.raises(EvidenceMalformed, match="a finite count is wanted"):
        sample(matrix(*histogram()[:-1], series("+Inf", value)))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (histogram()[:-1], r"lacks the buckets \[inf\]"),
        ([*histogram(), series("0.3", "5")], r"has \[0.3\] beyond them"),
        ([*histogram(), *histogram(job="again")], r"exists twice, differing in \{'job': \(None, 'again'\)\}"),
        ([*histogram(), *histogram()], "exists twice, differing in nothing"),
        ([*histogram()[:-1], series("+Inf", "3", at_s=5.0)], "falls from bucket to bucket"),
        (histogram(code="OK"), "an HTTP status is wanted"),
        ([series("much", "3")], "le='much'"),
    ],
)
def test_series_that_do_not_fit_together_are_refused(found: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(EvidenceMalformed, match=message):
        sample(matrix(*found))


def test_one_pod_found_by_two_addresses_is_one_pod() -> None:
    doubled = histogram(pod="churn-1") + histogram(pod="churn-1", instance="b:2", endpoint="metrics")
    with pytest.raises(EvidenceMalformed, match="exists twice"):
        sample(matrix(*doubled))


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '{"status": "success"}', '{"status": "success", "data": {"resultType": "matrix"}}',
     '{"status": "success", "data": {"resultType": "matrix", "result": [{}]}}',
     '{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "x"}, "values": 3}]}}',
     "<html>proxy</html>", b"\xff\xfe"],
)  # fmt: skip
def test_an_answer_that_is_no_matrix_is_refused(body: str | bytes) -> None:
    with pytest.raises(EvidenceMalformed, match="answered no matrix"):
        sample(reply(body))


def test_a_vector_is_refused() -> None:
    with pytest.raises(EvidenceMalformed, match="answered a vector"):
        sample(reply('{"status": "success", "data": {"resultType": "vector", "result": []}}'))


def test_an_answer_in_part_is_an_outage() -> None:
    """Thanos answers 200 with a warning when one of its stores is down."""
    with pytest.raises(EvidenceUnavailable, match="in part only: store down"):
        sample(matrix(*histogram(), warnings=["store down"]))


@pytest.mark.parametrize(("kind", "error"), [("timeout", EvidenceUnavailable), ("bad_data", EvidenceMalformed)])
def test_an_error_in_the_answer_is_told_by_its_type(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"answered {kind}: because"):
        sample(reply(json.dumps({"status": "error", "errorType": kind, "error": "because"})))


@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Busy", "429 Slow", "401 Who", "403 No"])
def test_a_status_that_may_pass_is_an_outage(status: str) -> None:
    with pytest.raises(EvidenceUnavailable, match=rf"answered {status[:3]} \(sorry\)"):
        sample(reply("sorry", status))


@pytest.mark.parametrize("status", ["404 Not Found", "400 Bad", "302 Found"])
def test_a_status_that_will_not_pass_is_malformed(status: str) -> None:
    with pytest.raises(EvidenceMalformed, match="check the source's address"):
        sample(reply("sorry", status))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("in an hour", 3600.0),
        ("an hour ago", 0.0),
        ("soon", None),
    ],
)
def test_retry_after_is_passed_on(value: str, seconds: float | None) -> None:
    hours = {"in an hour": 1, "an hour ago": -1}
    if value in hours:
        value = format_datetime(datetime.now(UTC) + timedelta(hours=hours[value]), usegmt=True)
    with pytest.raises(EvidenceUnavailable) as caught:
        sample(reply("slow down", "429 Too Many Requests", f"Retry-After: {value}\r\n"))
    assert caught.value.retry_after_s == (seconds if seconds is None else pytest.approx(seconds, abs=120))


def test_a_server_that_hangs_is_an_outage() -> None:
    with pytest.raises(EvidenceUnavailable, match=r"did not answer within 0\.2 s"):
        sample(None, timeout_s=0.2)


def test_a_server_that_is_gone_is_an_outage() -> None:
    gone = PrometheusSource(f"http://127.0.0.1:{free_port()}")
    with closing(gone), pytest.raises(EvidenceUnavailable, match="cannot be read"):
        gone.sample(["v7"])


def test_a_connection_that_breaks_is_an_outage() -> None:
    with pytest.raises(EvidenceUnavailable, match="cannot be read"):
        sample(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")


def test_after_an_outage_nothing_is_lost() -> None:
    answers = [matrix(*histogram("5")), reply("", "503 Busy"), matrix(*histogram("9"))]
    with misbehaving(answers) as url, closing(PrometheusSource(url)) as source:
        source.sample(["v7"])
        with pytest.raises(EvidenceUnavailable):
            source.sample(["v7"])
        assert source.sample(["v7"]).arms["v7"].total.requests == 4


def test_the_authorization_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(AUTHORIZATION_ENV, "Bearer abc")
    source = PrometheusSource("http://prometheus.example")
    assert source._client.headers["Authorization"] == "Bearer abc"


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is no label name"):
        PrometheusSource("http://prometheus.example", selector={'a="b",c': "d"})
