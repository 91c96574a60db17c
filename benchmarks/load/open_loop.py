"""One open-loop load test: probe, warm-up and measurement, in a child process that does nothing else.

The parent draws the progress bar, in another interpreter. Over gRPC the child starts client processes of its own.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
import signal
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection as Pipe
from threading import Event, Thread

from benchmarks.errors import BenchmarkError, MeasurementError, TargetError, TargetFailed
from benchmarks.load.client import Client
from benchmarks.load.connection import Done
from benchmarks.load.grpc_client import GrpcClient
from benchmarks.load.http1 import Http1Codec, http1_requests
from benchmarks.load.loadgen import complete, run_loadgen
from benchmarks.load.result import MIN_QUERIES, LoadPlan, LoadResult, Progress, Summary
from benchmarks.programs import start_uninterrupted
from benchmarks.steal import StealTime

# How often the interpreter switches threads; the default of 5 ms would add latency.
SWITCH_S = 0.0005
REPORT_S = 0.25
PROBE_TIMEOUT_S = 10.0
# The label of an answer that says the server itself failed: HTTP 5xx, gRPC UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS.
SERVER_FAILED = re.compile(r"HTTP 5|gRPC status (2|13|14|15)$")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_load(plan: LoadPlan, on_progress: Callable[[Progress], None] = lambda progress: None) -> LoadResult:
    """Run one test in a child process.

    Raises TargetError when the target cannot be reached or refuses the first request, TargetFailed when it answers that
    with a server error, MeasurementError when the child dies.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # Not a daemon, which may start no process of its own.
    process = context.Process(target=_child, args=(theirs, plan))
    try:
        start_uninterrupted(process)
        theirs.close()
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
        if process.pid is not None:
            process.terminate()
            process.join()


def _child(pipe: Pipe, plan: LoadPlan) -> None:
    from benchmarks.load.open_loop import LoadRun  # the client and LoadGen, which only the child runs

    # A parent that is killed cannot end this process, which would go on sending requests.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if plan.cpu is not None:
        os.sched_setaffinity(0, {plan.cpu})
    sys.setswitchinterval(SWITCH_S)
    # Nothing here makes reference cycles, and a collection would stop both threads.
    gc.disable()
    try:
        pipe.send(LoadRun(plan, pipe).result())
    except BenchmarkError as error:
        pipe.send(error)


def _client_of(plan: LoadPlan, on_done: Callable[[Sequence[Done]], None]) -> Client | GrpcClient:
    """Return the client that speaks the plan's protocol, not connected yet."""
    if plan.is_grpc:
        return GrpcClient(
            plan.target,
            plan.path,
            plan.bodies,
            connections=plan.connections,
            timeout_s=plan.timeout_s,
            processes=plan.grpc_processes,
            on_done=on_done,
        )
    return Client(
        plan.target,
        partial(Http1Codec, http1_requests(plan.target, plan.path, plan.bodies)),
        connections=plan.connections,
        timeout_s=plan.timeout_s,
        on_done=on_done,
    )


class LoadRun:
    """The client and the record of its finished requests; progress is sent to `pipe`."""

    def __init__(self, plan: LoadPlan, pipe: Pipe) -> None:
        self._plan = plan
        self._pipe = pipe
        self._client = _client_of(plan, self._on_done)
        self._complete: Callable[[Sequence[Done]], None] = lambda done: None
        self._reset()

    def result(self) -> LoadResult:
        """Probe, warm up, measure. Raises TargetError when the target cannot be reached or fails the probe."""
        self._client.open()
        try:
            self._probe()
            if self._plan.warmup_s > 0:
                self._issue(self._plan.warmup_s, min_queries=1)
            self._reset()
            reporter = Thread(target=self._report, daemon=True)
            reporter.start()
            steal, cpu_s, started_s = StealTime(), self._client.busiest_cpu_s(), time.perf_counter()
            summary = self._issue(self._plan.duration_s, min_queries=MIN_QUERIES)
            cpu_s, elapsed_s = self._client.busiest_cpu_s() - cpu_s, time.perf_counter() - started_s
            stolen = steal.share()
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
            stolen=stolen,
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
            self._issued_s.append(one.request.issued_s - self._started_s)
            self._latency_ms.append((one.finished_s - one.request.issued_s) * 1e3)
            if one.error is not None:
                self._errors[one.error] += 1
                self._example = self._example or f"{one.error}: {one.detail}".rstrip(": ")

    def _probe(self) -> None:
        answered = Event()
        self._complete = lambda done: answered.set()
        self._client.submit([0], [0])
        if not answered.wait(PROBE_TIMEOUT_S) or self._errors:
            url = f"{self._plan.target.host}:{self._plan.target.port}{self._plan.target.prefix}{self._plan.path}"
            kind = TargetFailed if any(SERVER_FAILED.match(label) for label in self._errors) else TargetError
            raise kind(f"the first request to {url} failed: {self._example or 'no answer'}")

    def _issue(self, duration_s: float, *, min_queries: int) -> Summary:
        self._complete = complete
        return run_loadgen(self._plan, self._client.submit, duration_s=duration_s, min_queries=min_queries)

    def _report(self) -> None:
        reported = 0
        while not self._finished.wait(REPORT_S):
            count = len(self._latency_ms)
            elapsed_s = time.perf_counter() - self._started_s
            recent = self._latency_ms[reported:count]
            self._pipe.send(Progress(elapsed_s, count, sum(self._errors.values()), recent))
            reported = count
