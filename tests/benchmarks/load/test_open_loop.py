"""The open loop against real sockets: what counts as an answer, as late, as failed."""

import ssl
import subprocess
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.errors import TargetError
from benchmarks.load.open_loop import run_load
from benchmarks.load.result import LoadPlan, LoadResult, Progress, reasons
from benchmarks.load.target import GRPC_PATH, parse_target
from tests.support.answering import Reply, answering, ok
from tests.support.programs import free_port, program

# The bound is wide: these tests judge the load client, not this machine.
PLAN = LoadPlan(
    target=parse_target("http://127.0.0.1:1"),
    path="/predict",
    bodies=(b'{"customer_id": 1}', b'{"customer_id": 2}'),
    is_grpc=False,
    qps=600,
    duration_s=1.0,
    bound_ms=1_000,
    connections=8,
    timeout_s=5,
    warmup_s=0.0,
)


def load(reply: Callable[[int], Reply], **changes: Any) -> LoadResult:
    with answering(reply) as port:
        return run_load(replace(PLAN, target=parse_target(f"http://127.0.0.1:{port}"), **changes))


def test_a_good_server_is_valid_at_the_asked_rate() -> None:
    result = load(lambda number: ok())
    assert result.valid
    assert reasons(PLAN, result) == ()
    assert result.requests >= 512
    assert result.summary.scheduled_qps == pytest.approx(600, rel=0.2)
    assert len(result.latency_ms) == len(result.issued_s) == result.requests


def test_one_error_makes_a_run_invalid() -> None:
    result = load(lambda number: ok(b'{"code": "overloaded"}', status="503 X") if number == 100 else ok())
    assert not result.valid
    assert result.errors == {"HTTP 503": 1}
    assert "overloaded" in result.example
    assert any("1 of" in reason for reason in reasons(PLAN, result))


def test_latency_counts_from_the_scheduled_arrival_not_from_when_a_connection_was_free() -> None:
    """A stall of 0.4 s on the only connection delays everyone who arrives meanwhile, not only one request."""

    def stalling(number: int) -> Reply:
        if number == 200:
            time.sleep(0.4)
        return ok()

    result = load(stalling, connections=1, bound_ms=50.0)
    assert not result.valid
    assert result.summary.p99_ms > 200
    late = sum(latency_ms > 50 for latency_ms in result.latency_ms)
    assert late > 100


def test_an_answer_that_never_comes_is_a_timeout() -> None:
    def silent(number: int) -> Reply:
        if number == 100:
            time.sleep(1.5)
        return ok()

    result = load(silent, timeout_s=0.4)
    assert result.errors.keys() == {"timeout"}
    assert not result.valid


def test_connections_that_the_server_closes_after_each_answer_are_replaced() -> None:
    result = load(lambda number: ok(headers="Connection: close\r\n"), qps=400)
    assert result.failures == 0


def test_a_connection_closed_under_a_request_is_tried_once_more() -> None:
    result = load(lambda number: None if number == 100 else ok())
    assert result.failures == 0


def test_half_an_answer_is_an_error() -> None:
    def cut(number: int) -> Reply:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nhalf" if number == 100 else ok()

    assert load(cut).errors == {"connection closed": 1}


def test_an_unreachable_server_is_named() -> None:
    port = free_port()
    with pytest.raises(TargetError, match=f"127.0.0.1:{port}"):
        run_load(replace(PLAN, target=parse_target(f"http://127.0.0.1:{port}")))


def test_a_wrong_path_is_found_before_the_load() -> None:
    with pytest.raises(TargetError, match="HTTP 404"):
        load(lambda number: ok(b"{}", status="404 Not Found"))


def test_tls_is_spoken_and_checked(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(lambda number: ok(), tls=context) as port:
        trusting = parse_target(f"https://127.0.0.1:{port}", verify=False)
        assert run_load(replace(PLAN, target=trusting)).valid
        with pytest.raises(TargetError, match="certificate verify failed"):
            run_load(replace(PLAN, target=parse_target(f"https://127.0.0.1:{port}")))


def test_grpc_is_spoken_to_a_server_that_nobody_here_wrote() -> None:
    answered = 0

    def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal answered
        answered += 1
        if answered == 100:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert request in PLAN.bodies
        return b"\x0a\x05churn"

    service, method = GRPC_PATH[1:].split("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(infer)})
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        plan = replace(PLAN, target=parse_target(f"grpc://127.0.0.1:{port}"), path=GRPC_PATH, is_grpc=True)
        result = run_load(plan)
    finally:
        server.stop(None).wait()
    assert result.errors == {"gRPC status 8": 1}
    assert "overloaded" in result.example
    assert result.requests == answered - 1  # the probe is not counted


def test_progress_is_told_while_it_runs() -> None:
    seen: list[Progress] = []
    with answering(lambda number: ok()) as port:
        result = run_load(replace(PLAN, target=parse_target(f"http://127.0.0.1:{port}"), duration_s=1.5), seen.append)
    assert len(seen) >= 3
    assert sum(len(progress.recent_ms) for progress in seen) <= result.requests
    assert [progress.requests for progress in seen] == sorted(progress.requests for progress in seen)
