from array import array

import pytest

from benchmarks.load.result import LoadPlan, LoadResult, Summary, verdict
from benchmarks.load.target import parse_target


@pytest.mark.parametrize(
    ("cpu", "lag_mean_ms", "lag_p99_ms", "said"),
    [
        (0.5, 0.1, 0.5, None),
        (0.97, 0.1, 0.5, "97%"),
        (0.5, 1.5, 0.5, "1.50 ms late"),
        (0.5, 0.1, 8.0, "8.00 ms at P99"),
    ],
)
def test_a_client_that_set_the_figures_says_so(
    cpu: float, lag_mean_ms: float, lag_p99_ms: float, said: str | None
) -> None:
    summary = Summary(True, (), 1, 1, 1, 1, 1, 1, 1, 1)
    result = LoadResult(1, summary, 1, {}, "", cpu, lag_mean_ms, lag_p99_ms, 0.0, None, None)  # type: ignore[arg-type]
    assert result.bottleneck is None if said is None else said in str(result.bottleneck)


PLAN = LoadPlan(parse_target("http://127.0.0.1:1"), "/predict", (b"",), is_grpc=False, qps=2000, duration_s=1.0)


@pytest.mark.parametrize(
    ("broken", "errors", "said"),
    [
        ((), {}, "PASSED: 99% of 3,000 requests were answered within 61.50 ms (allowed: 50 ms), and none failed"),
        (("Performance constraints", "Early stopping"), {}, "FAILED: P99 is 61.50 ms, allowed: 50 ms"),
        (("Early stopping",), {}, "FAILED: too few requests to be sure of P99 with 99 % confidence; measure longer"),
        (("Min duration",), {}, "FAILED: stopped early, when 2,000 requests were waiting: the service answers fewer"),
        ((), {"HTTP 503": 2}, "FAILED: 2 of 3,000 requests failed (the first: HTTP 503: overloaded)"),
    ],
)
def test_the_verdict_is_one_sentence_with_its_figures(
    broken: tuple[str, ...], errors: dict[str, int], said: str
) -> None:
    summary = Summary(not broken, broken, 1, 1, 1, 1, 1, 61.5, 1, 1)
    example = "HTTP 503: overloaded" if errors else ""
    result = LoadResult(2000, summary, 3000, errors, example, 0.1, 0.1, 0.1, 0.0, array("d"), array("d"))
    assert verdict(PLAN, result).startswith(said)
