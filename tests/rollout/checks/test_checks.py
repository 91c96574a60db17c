"""Each kind of check against a service, a program or a directory that answers."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from rollout.analysis.verdict import GateResult, Verdict
from rollout.checks.check import Check, Subject
from rollout.checks.command import ALLOWED_ENV, LOAD_TEST, CommandHook, LoadTest, run
from rollout.checks.http_hook import HttpHook
from rollout.checks.paired import Paired
from rollout.checks.query import Query
from rollout.checks.smoke import Smoke, SmokeRequest, lacking
from tests.support.commands import find
from tests.support.prediction_records import table
from tests.support.programs import GUARD_S, free_port

SUBJECT = Subject("churn", "models", "v7", "v8", "10 %", 10)


class Service:
    """An HTTP service on a free port. answers: (status, body) by path. seen: what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.seen.append((self.command, self.path, headers, self.rfile.read(length)))
                status, body = service.answers.get(self.path, (404, {"error": "nothing there"}))
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.close()


def ask(check: Check, subject: Subject = SUBJECT) -> GateResult:
    (result,) = check.ask(subject, lambda: False)
    return result


@pytest.mark.parametrize(
    ("status", "body", "verdict", "said"),
    [
        (204, b"", Verdict.PASS, "answered 204"),
        (200, {"verdict": "pass", "reason": "no freeze"}, Verdict.PASS, "no freeze"),
        (200, {"verdict": "hold", "reason": "until six"}, Verdict.INCONCLUSIVE, "until six"),
        (200, {"verdict": "fail"}, Verdict.FAIL, "answered fail"),
        (200, {"verdict": "perhaps"}, Verdict.ERROR, "allowed: pass, fail, hold"),
        (423, b"locked", Verdict.INCONCLUSIVE, "answered 423: locked"),
        (503, b"", Verdict.INCONCLUSIVE, "answered 503: no text"),
        (403, b"no", Verdict.FAIL, "answered 403: no"),
    ],
)
def test_an_http_hook_takes_the_answer_as_a_verdict(
    service: Service, status: int, body: Any, verdict: Verdict, said: str
) -> None:
    service.answers["/ask"] = (status, body)
    result = ask(HttpHook(name="freeze", url=f"{service.url}/ask"))
    assert (result.verdict, result.name) == (verdict, "freeze")
    assert said in result.reason


def test_an_http_hook_says_where_the_rollout_stands_and_who_it_is(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_HOOK_TOKEN", "Bearer abc")
    service.answers["/v8"] = (200, b"")
    ask(HttpHook(name="freeze", url=f"{service.url}/$canary", authorization_env="ROLLOUT_HOOK_TOKEN"))
    ((method, _, headers, body),) = service.seen
    assert (method, headers["authorization"]) == ("POST", "Bearer abc")
    assert json.loads(body) == {"hook": "freeze", **SUBJECT.words()}


def test_a_hook_may_name_no_other_secret_and_a_missing_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="authorization_env"):
        HttpHook(name="thief", url="http://x", authorization_env="AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("ROLLOUT_HOOK_TOKEN", raising=False)
    result = ask(HttpHook(name="freeze", url="http://x", authorization_env="ROLLOUT_HOOK_TOKEN"))
    assert (result.verdict, "ROLLOUT_HOOK_TOKEN is not set" in result.reason) == (Verdict.ERROR, True)


def test_nobody_there_holds() -> None:
    assert ask(HttpHook(name="freeze", url="http://127.0.0.1:9/")).verdict is Verdict.INCONCLUSIVE


def script(text: str, **settings: Any) -> CommandHook:
    return CommandHook(name="script", command=(sys.executable, "-c", text, "$canary"), **settings)


@pytest.mark.parametrize(("code", "verdict"), [(0, Verdict.PASS), (3, Verdict.INCONCLUSIVE), (1, Verdict.FAIL)])
def test_a_command_answers_by_its_exit_code_and_its_last_line(
    monkeypatch: pytest.MonkeyPatch, code: int, verdict: Verdict
) -> None:
    monkeypatch.setenv(ALLOWED_ENV, "allowed")
    text = f"import os, sys; print('x' * 100_000); print(sys.argv[1], os.environ['ROLLOUT_STABLE']); sys.exit({code})"
    result = ask(script(text))
    assert (result.verdict, result.reason) == (verdict, f"v8 v7 (exit code {code})")


def test_a_command_must_be_allowed_by_the_process_that_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED_ENV, raising=False)
    result = ask(script("raise SystemExit(0)"))
    assert (result.verdict, "ROLLOUT_COMMANDS=allowed" in result.reason) == (Verdict.ERROR, True)


def test_a_command_that_hangs_is_ended_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED_ENV, "allowed")
    begun_s = time.monotonic()
    result = ask(script("import subprocess; subprocess.run(['sleep', '6000'])", timeout_s=0.3))
    assert (result.verdict, time.monotonic() - begun_s < GUARD_S) == (Verdict.INCONCLUSIVE, True)
    assert "had not ended after 0.3 s" in result.reason
    (stopped,) = script("import time; time.sleep(60)").ask(SUBJECT, lambda: True)
    assert stopped.reason == "stopped, because the step has ended"
    unknown = CommandHook(name="script", command=("/no/such/program",))
    assert "cannot be started" in ask(unknown).reason


def test_a_load_test_runs_against_the_canary_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(words: list[str], env: Any, timeout_s: float, ended: Any, **_: Any) -> Any:
        ran.append(words)
        return Verdict.PASS, "100 requests/s: PASSED"

    monkeypatch.setattr("rollout.checks.command.run", run)
    subject = replace(
        SUBJECT, canary_url="http://gateway/seldon/models/churn", canary_headers={"X-Seldon-Predictor": "v8"}
    )
    assert ask(LoadTest(qps=200.0), subject).verdict is Verdict.PASS
    words = ran[0]
    assert words[words.index("--url") + 1] == "http://gateway/seldon/models/churn"
    assert words[words.index("--header") + 1] == "X-Seldon-Predictor: v8"
    assert words[words.index("--qps") + 1] == "200"
    _, command = find("load-test")
    command.make_context("load-test", words[words.index("load-test") + 1 :])  # raises UsageError
    assert ask(LoadTest()).verdict is Verdict.ERROR  # no address


@pytest.mark.parametrize("canary", ["unreachable", "refuses", "fails"])
def test_a_load_test_that_measured_nothing_is_no_reason_to_roll_back(service: Service, canary: str) -> None:
    """As with a smoke request, only an answer is evidence: a wrong address rolls no good canary back."""
    service.answers["/predict"] = (404 if canary == "refuses" else 503, b"no")
    address = f"http://127.0.0.1:{free_port()}" if canary == "unreachable" else service.url
    result = ask(LoadTest(url=address, qps=1.0, duration_s=1.0))
    assert result.verdict is (Verdict.FAIL if canary == "fails" else Verdict.INCONCLUSIVE), result.reason
    assert ("nothing was measured" in result.reason) == (canary != "fails")
    assert address.removeprefix("http://") in result.reason


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, Verdict.PASS), (1, Verdict.FAIL), (2, Verdict.ERROR), (3, Verdict.INCONCLUSIVE)]
)
def test_a_load_test_with_wrong_options_says_nothing_about_the_canary(code: int, verdict: Verdict) -> None:
    words = [sys.executable, "-c", f"raise SystemExit({code})"]
    assert run(words, {}, 30.0, lambda: False, verdicts=LOAD_TEST)[0] is verdict


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"resultType": "vector", "result": [{"metric": {}, "value": [0, "0.2"]}]}, Verdict.PASS),
        ({"resultType": "scalar", "result": [0, "0.7"]}, Verdict.FAIL),
        ({"resultType": "vector", "result": []}, Verdict.NO_DATA),
        ({"resultType": "scalar", "result": [0, "NaN"]}, Verdict.NO_DATA),
        ({"resultType": "scalar", "result": [0, "+Inf"]}, Verdict.FAIL),
        ({"resultType": "matrix", "result": []}, Verdict.ERROR),
        ({"resultType": "vector", "result": [{"metric": {"a": "1"}}, {"metric": {"a": "2"}}]}, Verdict.ERROR),
        ("nonsense", Verdict.ERROR),
    ],
)
def test_a_query_is_compared_with_its_limit(service: Service, result: Any, verdict: Verdict) -> None:
    service.answers["/api/v1/query"] = (200, {"status": "success", "data": result})
    found = ask(Query(name="own", query='errors{predictor="$canary"}', at_most=0.5, prometheus=service.url))
    assert found.verdict is verdict
    assert b"v8" in service.seen[0][3]


def test_a_query_has_one_limit_and_a_lower_one_is_a_limit_too(service: Service) -> None:
    with pytest.raises(ValidationError, match="needs one limit"):
        Query(name="own", query="up", at_most=1.0, at_least=0.0)
    service.answers["/api/v1/query"] = (200, {"data": {"resultType": "scalar", "result": [0, "0.7"]}})
    assert ask(Query(name="own", query="up", at_least=0.9, prometheus=service.url)).verdict is Verdict.FAIL
    assert ask(Query(name="own", query="up", at_least=0.6, prometheus=service.url)).verdict is Verdict.PASS
    service.answers["/api/v1/query"] = (503, b"")
    assert ask(Query(name="own", query="up", at_least=0.6, prometheus=service.url)).verdict is Verdict.ERROR


def test_the_evidences_credential_is_sent_to_the_evidences_own_address_only(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_PROMETHEUS_AUTHORIZATION", "Bearer of the evidence")
    service.answers["/api/v1/query"] = (200, {"data": {"resultType": "scalar", "result": [0, "0.7"]}})
    own = Query(name="own", query="up", at_least=0.6, prometheus=service.url)
    ask(own, replace(SUBJECT, prometheus=f"{service.url}/"))
    ask(own, replace(SUBJECT, prometheus="http://prometheus.monitoring:9090"))
    ask(own)
    assert [headers.get("authorization") for _, _, headers, _ in service.seen] == ["Bearer of the evidence", None, None]


def test_smoke_requests_go_to_the_canary_alone_and_are_compared(service: Service) -> None:
    subject = replace(SUBJECT, canary_url=service.url, canary_headers={"X-Seldon-Predictor": "v8"})
    service.answers = {"/ready": (200, b""), "/predict": (200, {"customer_id": 5, "churn_probability": 0.3})}
    requests = (SmokeRequest(path="/ready"), SmokeRequest(path="/predict", body={"id": 5}, expect={"customer_id": 5}))
    result = ask(Smoke(requests=requests), subject)
    assert (result.verdict, result.reason.partition(",")[0]) == (Verdict.PASS, "2 of 2 requests as expected")
    assert [(method, headers["x-seldon-predictor"]) for method, _, headers, _ in service.seen] == [
        ("GET", "v8"),
        ("POST", "v8"),
    ]
    wrong = Smoke(requests=(SmokeRequest(path="/predict", body={}, expect={"customer_id": 6}),))
    assert "customer_id is 5, expected 6" in ask(wrong, subject).reason
    assert ask(Smoke(requests=(SmokeRequest(path="/nowhere"),)), subject).verdict is Verdict.FAIL
    assert ask(Smoke()).verdict is Verdict.ERROR  # no address


def test_expected_json_is_contained_in_the_answer() -> None:
    assert lacking({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}], "d": 3}) == ""
    assert lacking({"a": {"b": 1}}, {"a": {}}) == "a has no 'b'"
    assert lacking({"a": [1, 2]}, {"a": [1]}) == "a is [1], expected [1, 2]"


def test_pairs_are_joined_from_the_records_of_both_versions(tmp_path: Path) -> None:
    rows = [(200.0 + i, f"r{i}", name, 0.4) for i in range(400) for name in ("v7", "v8")]
    parquet.write_table(table(rows), tmp_path / "1.parquet")
    check = Paired(records=str(tmp_path), lag_s=5.0)
    results = check.ask(replace(SUBJECT, since_s=100.0), lambda: False)
    assert [(one.name, one.verdict) for one in results] == [
        ("paired_requests", Verdict.PASS),
        ("paired_scores", Verdict.PASS),
    ]
    assert set(check.results) == {one.name for one in results}
    missing = Paired(records=str(tmp_path / "nowhere")).ask(SUBJECT, lambda: False)
    assert {one.verdict for one in missing} == {Verdict.ERROR}


@pytest.mark.parametrize(("slower", "verdict"), [(1.1, Verdict.PASS), (5.0, Verdict.FAIL)])
def test_the_latencies_of_pairs_are_compared_request_by_request(
    tmp_path: Path, slower: float, verdict: Verdict
) -> None:
    rows = [(200.0 + i, f"r{i}", name, 0.4) for i in range(400) for name in ("v7", "v8")]
    # Requests take between 2 and 40 ms, so the versions' histograms overlap; of each pair one is slower.
    latencies = [(2.0 + i % 39) * (slower if name == "v8" else 1) for i in range(400) for name in ("v7", "v8")]
    parquet.write_table(table(rows, latency_ms=pa.array(latencies)), tmp_path / "1.parquet")
    results = Paired(records=str(tmp_path), lag_s=5.0).ask(replace(SUBJECT, since_s=100.0), lambda: False)
    (found,) = (one for one in results if one.name == "paired_latency")
    assert found.verdict is verdict, found.reason
    assert not found.asks  # slower answers roll back; only scores ask a person
