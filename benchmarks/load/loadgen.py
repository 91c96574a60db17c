"""MLPerf LoadGen's Server scenario: Poisson arrivals, a latency bound at a percentile, LoadGen's own verdict.

LoadGen schedules each request's arrival and counts its latency from that moment, whenever it was really sent, so that
late requests do not hide a slow server or a slow client.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import mlperf_loadgen as lg

from benchmarks.load.connection import Done
from benchmarks.load.result import LoadPlan, Summary, most_waiting, read_summary


def complete(done: Sequence[Done]) -> None:
    """Report these requests to LoadGen as finished now."""
    lg.QuerySamplesComplete([lg.QuerySampleResponse(one.request.response_id, 0, 0) for one in done])


def run_loadgen(
    plan: LoadPlan,
    submit: Callable[[Sequence[int], Sequence[int]], None],
    *,
    duration_s: float,
    min_queries: int,
) -> Summary:
    """Have LoadGen issue requests (response ids, indexes of bodies) for that long; each needs `complete` to be called.

    Raises MeasurementError when LoadGen leaves no summary.
    """
    count = len(plan.bodies)
    sut = lg.ConstructFastSUT(submit, lambda: None)
    qsl = lg.ConstructQSL(count, count, lambda indexes: None, lambda indexes: None)
    with tempfile.TemporaryDirectory(prefix="loadgen-") as directory:
        output = lg.LogOutputSettings()
        output.outdir = directory
        output.copy_summary_to_stdout = False
        logs = lg.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        try:
            lg.StartTestWithLogSettings(sut, qsl, _settings(plan, duration_s, min_queries), logs)
        finally:
            lg.DestroyQSL(qsl)
            lg.DestroyFastSUT(sut)
        return read_summary(Path(directory))


def _settings(plan: LoadPlan, duration_s: float, min_queries: int) -> lg.TestSettings:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.Server
    settings.mode = lg.TestMode.PerformanceOnly
    settings.server_target_qps = plan.qps
    settings.server_target_latency_ns = int(plan.bound_ms * 1e6)
    settings.server_target_latency_percentile = plan.percentile
    # Arrivals that fell due while the issuing thread was away come in one call, each with its own schedule.
    settings.server_coalesce_queries = True
    settings.server_max_async_queries = most_waiting(plan)  # then LoadGen stops the test as INVALID
    settings.min_duration_ms = int(duration_s * 1e3)
    settings.min_query_count = min_queries
    settings.schedule_rng_seed = plan.seed
    settings.sample_index_rng_seed = plan.seed
    return settings
