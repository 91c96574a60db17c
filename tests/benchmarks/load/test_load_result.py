import pytest

from benchmarks.load.result import LoadResult, Summary


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
    result = LoadResult(1, summary, 1, {}, "", cpu, lag_mean_ms, lag_p99_ms, None, None)  # type: ignore[arg-type]
    assert result.bottleneck is None if said is None else said in str(result.bottleneck)
