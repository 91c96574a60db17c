import pytest

from benchmarks.compare.closed_loop import run_wrk
from benchmarks.errors import MeasurementError
from benchmarks.load.target import parse_target
from tests.support.answering import answering, ok
from tests.support.programs import program

CPU = 1


def test_every_body_is_asked_for_in_turn() -> None:
    program("wrk")
    with answering(lambda number: ok()) as port:
        result = run_wrk(parse_target(f"http://127.0.0.1:{port}"), "/predict", [b"{}"], duration_s=1, cpu=CPU)
    assert result.requests_per_s > 100
    assert 0 < result.p50_ms <= result.p99_ms


def test_one_error_fails_the_measurement() -> None:
    program("wrk")
    with (
        answering(lambda number: ok(b"{}", status="404 X") if number == 50 else ok()) as port,
        pytest.raises(MeasurementError, match="'status': 1"),
    ):
        run_wrk(parse_target(f"http://127.0.0.1:{port}"), "/predict", [b"{}"], duration_s=1, cpu=CPU)
