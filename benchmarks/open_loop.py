"""One open-loop load test: the load client and LoadGen in a child process, with nothing else beside them.

Whoever draws a progress bar does it in another interpreter.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe

from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.load_plan import LoadPlan
from benchmarks.load_result import LoadResult, Progress

# The interpreter offers its lock to the other thread this often; the default of 5 ms would be a latency of its own.
SWITCH_S = 0.0005


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
    from benchmarks.load_run import LoadRun  # the client and LoadGen, which only the child runs

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if plan.cpu is not None:
        os.sched_setaffinity(0, {plan.cpu})
    sys.setswitchinterval(SWITCH_S)
    # Nothing here makes reference cycles, and a collection would stop both threads.
    gc.disable()
    try:
        pipe.send(LoadRun(plan, pipe).result())
    except BenchmarkError as error:
        pipe.send(error)
