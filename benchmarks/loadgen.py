"""One open-loop load test with MLPerf LoadGen: Server scenario, Poisson arrivals, a latency bound at P99.

LoadGen decides when each request arrives and counts its latency from that moment, sent or not, so a slow server (or a
slow client) cannot hide behind late requests. It runs in a child process, next to the load client and nothing else:
whoever draws a progress bar does it in another interpreter.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from threading import Event, Thread

from benchmarks.client import Client, Done
from benchmarks.codec import Codec
from benchmarks.errors import BenchmarkError, MeasurementError, TargetError
from benchmarks.http1 import Http1Codec, http1_requests
from benchmarks.http2 import GrpcCodec, grpc_bodies, grpc_header_block
from benchmarks.summary import Summary, read_summary
from benchmarks.target import Target

# LoadGen wants this many requests under the bound before it believes a P99 with 99 % confidence (459, rounded up).
MIN_QUERIES = 512
REPORT_S = 0.25
PROBE_TIMEOUT_S = 10.0
# The interpreter offers its lock to the other thread this often; the default of 5 ms would be a latency of its own.
SWITCH_S = 0.0005
# The client is called the bottleneck beyond any of these.
CPU_LIMIT = 0.95
LAG_MEAN_LIMIT_MS = 1.0
LAG_P99_LIMIT_MS = 5.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One test: what is asked of whom, how often, for how long. cpu pins the client to one core."""

    target: Target
    path: str
    bodies: tuple[bytes, ...]
    is_grpc: bool
    qps: float
    duration_s: float
    bound_ms: float = 50.0
    percentile: float = 0.99
    connections: int = 64
    timeout_s: float = 2.0
    warmup_s: float = 1.0
    seed: int = 0
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What happened. latency_ms: each request's time from being issued to its answer; issued_s: since the start."""

    qps: float
    summary: Summary
    requests: int
    errors: dict[str, int]
    example: str
    client_cpu: float
    lag_mean_ms: float
    lag_p99_ms: float
    issued_s: array[float] = field(repr=False)
    latency_ms: array[float] = field(repr=False)

    @property
    def failures(self) -> int:
        """How many requests ended in an error."""
        return sum(self.errors.values())

    @property
    def valid(self) -> bool:
        """LoadGen's verdict, and no error."""
        return self.summary.valid and not self.failures

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is INVALID; empty when it is VALID."""
        share = f"{self.failures} of {self.requests} requests failed"
        return ((share,) if self.failures else ()) + self.summary.reasons

    @property
    def bottleneck(self) -> str | None:
        """Why the client, and not the server, set these figures; None when it did not."""
        if self.client_cpu >= CPU_LIMIT:
            return f"the client used {self.client_cpu:.0%} of a core"
        if self.lag_mean_ms > LAG_MEAN_LIMIT_MS or self.lag_p99_ms > LAG_P99_LIMIT_MS:
            return f"the client sent {self.lag_mean_ms:.2f} ms late on average, {self.lag_p99_ms:.2f} ms at P99"
        return None


@dataclass(frozen=True, slots=True)
class Progress:
    """A running test: seconds since it began, requests done, errors so far, and the latencies since the last report."""

    elapsed_s: float
    requests: int
    failures: int
    recent_ms: array[float]


def run_load(plan: LoadPlan, on_progress: Callable[[Progress], None] = lambda progress: None) -> LoadResult:
    """Run one test in a child process.

    Raises TargetError when the target cannot be reached or fails the first request, MeasurementError when the child
    dies.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, plan), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, Progress):
                on_progress(message)
            elif isinstance(message, LoadResult):
                return message
            else:
                raise message
    except EOFError as error:
        process.join()
        raise MeasurementError(f"the load process ended without a result, exit code {process.exitcode}") from error
    finally:
        ours.close()
        process.terminate()
        process.join()


def _child(pipe: Pipe, plan: LoadPlan) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if plan.cpu is not None:
        os.sched_setaffinity(0, {plan.cpu})
    sys.setswitchinterval(SWITCH_S)
    # Nothing here makes reference cycles, and a collection would stop both threads.
    gc.disable()
    try:
        pipe.send(_Run(plan, pipe).result())
    except BenchmarkError as error:
        pipe.send(error)


class _Run:
    """The child's side: the client, LoadGen's callbacks, and what they recorded."""

    def __init__(self, plan: LoadPlan, pipe: Pipe) -> None:
        self._plan = plan
        self._pipe = pipe
        self._client = Client(
            plan.target,
            codec_factory(plan.target, plan.path, plan.bodies, is_grpc=plan.is_grpc),
            alpn="h2" if plan.is_grpc else "http/1.1",
            connections=plan.connections,
            timeout_s=plan.timeout_s,
            on_done=self._on_done,
        )
        self._complete: Callable[[Sequence[Done]], None] = lambda done: None
        self._reset()

    def result(self) -> LoadResult:
        """Probe, warm up, measure."""
        self._client.open()
        try:
            self._probe()
            if self._plan.warmup_s > 0:
                self._loadgen(self._plan.warmup_s, min_queries=1)
            self._reset()
            reporter = Thread(target=self._report, daemon=True)
            reporter.start()
            cpu_s, started_s = time.process_time(), time.perf_counter()
            summary = self._loadgen(self._plan.duration_s, min_queries=MIN_QUERIES)
            cpu_s, elapsed_s = time.process_time() - cpu_s, time.perf_counter() - started_s
            self._finished.set()
            reporter.join()
        finally:
            self._client.close()
        ordered = sorted(self._latency_ms)
        return LoadResult(
            qps=self._plan.qps,
            summary=summary,
            requests=len(ordered),
            errors=dict(self._errors),
            example=self._example,
            client_cpu=cpu_s / elapsed_s,
            # The difference of two means is the mean of the differences: how late requests left, on average.
            lag_mean_ms=max(0.0, summary.mean_ms - sum(ordered) / len(ordered)),
            lag_p99_ms=max(0.0, summary.p99_ms - ordered[int(len(ordered) * 0.99)]),
            issued_s=self._issued_s,
            latency_ms=self._latency_ms,
        )

    def _reset(self) -> None:
        self._started_s = time.perf_counter()
        self._issued_s = array("d")
        self._latency_ms = array("d")
        self._errors: Counter[str] = Counter()
        self._example = ""
        self._finished = Event()

    def _on_done(self, done: Sequence[Done]) -> None:
        self._complete(done)
        for one in done:
            self._issued_s.append(one.ticket.issued_s - self._started_s)
            self._latency_ms.append((one.finished_s - one.ticket.issued_s) * 1e3)
            if one.error is not None:
                self._errors[one.error] += 1
                self._example = self._example or f"{one.error}: {one.detail}".rstrip(": ")

    def _probe(self) -> None:
        answered = Event()
        self._complete = lambda done: answered.set()
        self._client.submit([0], [0])
        if not answered.wait(PROBE_TIMEOUT_S) or self._errors:
            url = f"{self._plan.target.host}:{self._plan.target.port}{self._plan.target.prefix}{self._plan.path}"
            raise TargetError(f"the first request to {url} failed: {self._example or 'no answer'}")

    def _report(self) -> None:
        reported = 0
        while not self._finished.wait(REPORT_S):
            count = len(self._latency_ms)
            elapsed_s = time.perf_counter() - self._started_s
            recent = self._latency_ms[reported:count]
            self._pipe.send(Progress(elapsed_s, count, sum(self._errors.values()), recent))
            reported = count

    def _loadgen(self, duration_s: float, *, min_queries: int) -> Summary:
        import mlperf_loadgen as lg

        plan = self._plan
        settings = lg.TestSettings()
        settings.scenario = lg.TestScenario.Server
        settings.mode = lg.TestMode.PerformanceOnly
        settings.server_target_qps = plan.qps
        settings.server_target_latency_ns = int(plan.bound_ms * 1e6)
        settings.server_target_latency_percentile = plan.percentile
        # Arrivals that fell due while the issuing thread was away come in one call, each with its own schedule.
        settings.server_coalesce_queries = True
        # A second's worth of waiting requests is no service any more: stop, INVALID.
        settings.server_max_async_queries = max(MIN_QUERIES, int(plan.qps))
        settings.min_duration_ms = int(duration_s * 1e3)
        settings.min_query_count = min_queries
        settings.schedule_rng_seed = plan.seed
        settings.sample_index_rng_seed = plan.seed

        def complete(done: Sequence[Done]) -> None:
            lg.QuerySamplesComplete([lg.QuerySampleResponse(one.ticket.response_id, 0, 0) for one in done])

        self._complete = complete
        count = len(plan.bodies)
        sut = lg.ConstructFastSUT(self._client.submit, lambda: None)
        qsl = lg.ConstructQSL(count, count, lambda indexes: None, lambda indexes: None)
        with tempfile.TemporaryDirectory(prefix="loadgen-") as directory:
            output = lg.LogOutputSettings()
            output.outdir = directory
            output.copy_summary_to_stdout = False
            logs = lg.LogSettings()
            logs.log_output = output
            logs.enable_trace = False
            try:
                lg.StartTestWithLogSettings(sut, qsl, settings, logs)
            finally:
                lg.DestroyQSL(qsl)
                lg.DestroyFastSUT(sut)
            return read_summary(Path(directory))


def codec_factory(target: Target, path: str, bodies: Sequence[bytes], *, is_grpc: bool) -> Callable[[], Codec]:
    """Return what makes a connection's codec; the requests are made once, here."""
    if is_grpc:
        return partial(GrpcCodec, grpc_header_block(target, path), grpc_bodies(bodies))
    return partial(Http1Codec, http1_requests(target, path, bodies))
