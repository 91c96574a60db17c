"""Closed loops, in which a connection sends its next request after each answer: wrk, h2load, and the load client.

wrk and h2load (Debian's packages) measure the highest rates over REST and gRPC. h2load does not look at grpc-status, so
its count is checked against the server's own. The load client in a child process runs big batches in the background.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import struct
import subprocess
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event as LocalEvent

from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.load.client import Client
from benchmarks.load.connection import Done
from benchmarks.load.http1 import Http1Codec, http1_requests
from benchmarks.load.target import Target
from benchmarks.programs import start_uninterrupted

END_TIMEOUT_S = 60.0
CONNECTIONS = 16
H2LOAD_RUN_S = 1.0
SCRIPT = Path(__file__).resolve().parent / "wrk_bodies.lua"


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Answers per second, and the latency of a connection that is never idle."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Loop:
    """The requests, the number of connections, and the client's core."""

    target: Target
    path: str
    bodies: tuple[bytes, ...]
    connections: int
    cpu: int
    timeout_s: float = 30.0


@contextmanager
def closed_loop(loop: Loop) -> Iterator[list[ClosedLoop]]:
    """Run a closed loop as long as the block runs; the list has the result afterwards."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    stop = context.Event()
    process = context.Process(target=_child, args=(theirs, stop, loop), daemon=True)
    start_uninterrupted(process)
    theirs.close()
    results: list[ClosedLoop] = []
    try:
        _receive(ours)  # the first answer
        yield results
        stop.set()
        result = _receive(ours)
        assert isinstance(result, ClosedLoop)  # noqa: S101 (the child sends nothing else second)
        results.append(result)
    finally:
        process.terminate()
        process.join()
        ours.close()


def _receive(pipe: Pipe) -> object:
    if not pipe.poll(END_TIMEOUT_S):
        raise MeasurementError("the closed loop got no answer")
    try:
        message = pipe.recv()
    except EOFError as error:
        raise MeasurementError("the closed loop's process ended without a result") from error
    if isinstance(message, BenchmarkError):
        raise message
    return message


def _child(pipe: Pipe, stop: Event, loop: Loop) -> None:
    os.sched_setaffinity(0, {loop.cpu})
    gc.disable()
    try:
        pipe.send(_measure(loop, pipe, stop))
    except BenchmarkError as error:
        pipe.send(error)


def _measure(loop: Loop, pipe: Pipe, stop: Event) -> ClosedLoop:
    latency_ms = array("d")
    errors: Counter[str] = Counter()
    indexes = (number % len(loop.bodies) for number in count())
    first = LocalEvent()

    def on_done(done: Sequence[Done]) -> None:
        for one in done:
            latency_ms.append((one.finished_s - one.request.issued_s) * 1e3)
            if one.error is not None:
                errors[f"{one.error} {one.detail}".strip()] += 1
            client.submit([0], [next(indexes)])
        first.set()

    client = Client(
        loop.target,
        partial(Http1Codec, http1_requests(loop.target, loop.path, loop.bodies)),
        connections=loop.connections,
        timeout_s=loop.timeout_s,
        on_done=on_done,
    )
    client.open()
    try:
        client.submit([0] * loop.connections, [next(indexes) for _ in range(loop.connections)])
        if not first.wait(END_TIMEOUT_S):
            raise MeasurementError(f"no answer from {loop.target.authority}{loop.path}")
        pipe.send("answering")
        started_s, before = time.perf_counter(), len(latency_ms)
        stop.wait()
        elapsed_s, after = time.perf_counter() - started_s, len(latency_ms)
    finally:
        client.close()
    if errors or after == before:
        raise MeasurementError(f"{loop.path}: {after} answers, errors: {dict(errors) or 'no answer at all'}")
    ordered = sorted(latency_ms[before:after])
    return ClosedLoop((after - before) / elapsed_s, ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)])


def run_wrk(
    target: Target,
    path: str,
    bodies: Sequence[bytes],
    *,
    duration_s: float,
    cpu: int,
    headers: Mapping[str, str] | None = None,
) -> ClosedLoop:
    """Run wrk with one thread on one core. Raises MeasurementError when one answer was not a 200, or none came.

    headers: beside the content type, which they may replace.
    """
    with TemporaryDirectory(prefix="wrk-") as directory:
        file = Path(directory) / "bodies"
        file.write_bytes(b"".join(b"%08d%b" % (len(body), body) for body in bodies))
        url = f"http://{target.authority}{path}"
        command = ["taskset", "-c", str(cpu), *wrk_arguments(duration_s), "-s", str(SCRIPT), url, "--", str(file)]
        command += [f"{name}: {value}" for name, value in (headers or {}).items()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=duration_s + 30, check=False)
        except FileNotFoundError as error:
            raise MeasurementError("wrk or taskset is missing; install them: apt-get install wrk util-linux") from error
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"wrk did not end; {url} does not answer") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise MeasurementError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    figures = json.loads(lines[-1])
    failed = {kind: count for kind, count in figures["errors"].items() if count}
    if failed or not figures["requests"]:
        raise MeasurementError(f"{figures['requests']} answers, errors: {failed or 'no answer at all'}")
    return ClosedLoop(
        requests_per_s=figures["requests"] / figures["duration_us"] * 1e6,
        p50_ms=figures["p50_us"] / 1e3,
        p99_ms=figures["p99_us"] / 1e3,
    )


def wrk_arguments(duration_s: float) -> list[str]:
    """Return wrk's command line without script, URL and bodies, also for the report."""
    return ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(duration_s))}s", "--latency"]


def run_h2load(
    target: Target,
    path: str,
    body: bytes,
    *,
    duration_s: float,
    cpu: int,
    counted: Callable[[], float],
    connections: int = CONNECTIONS,
    streams: int = 1,
) -> ClosedLoop:
    """Run h2load with one thread on one core, sending one unary gRPC message over and over.

    streams: calls in flight on each connection. counted: the server's own number of good answers so far. Raises
    MeasurementError when a call failed, or when the two counts differ by more than what was in flight at the end.
    Runs of one second: h2load opens no new connection when a server asks it to leave one (GOAWAY), as ours does after
    3,072 calls.
    """
    runs = [
        _run_h2load(target, path, body, cpu=cpu, counted=counted, connections=connections, streams=streams)
        for _ in range(max(1, round(duration_s / H2LOAD_RUN_S)))
    ]
    durations_us = sorted(chain.from_iterable(durations for _, durations in runs))
    return ClosedLoop(
        requests_per_s=sum(answers for answers, _ in runs) / (len(runs) * H2LOAD_RUN_S),
        p50_ms=durations_us[len(durations_us) // 2] / 1e3,
        p99_ms=durations_us[int(len(durations_us) * 0.99)] / 1e3,
    )


def _run_h2load(
    target: Target,
    path: str,
    body: bytes,
    *,
    cpu: int,
    counted: Callable[[], float],
    connections: int,
    streams: int,
) -> tuple[float, list[int]]:
    """Run h2load once; return how many good answers came, and how long each took in microseconds."""
    duration_s = H2LOAD_RUN_S
    with TemporaryDirectory(prefix="h2load-") as directory:
        message, log = Path(directory) / "message", Path(directory) / "log"
        message.write_bytes(struct.pack(">BI", 0, len(body)) + body)
        scheme = "https" if target.tls else "http"
        command = ["taskset", "-c", str(cpu), *h2load_arguments(duration_s, connections, streams)]
        command += ["--data", str(message), "--log-file", str(log)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        before = counted()
        try:
            done = subprocess.run(
                [*command, f"{scheme}://{target.authority}{target.prefix}{path}"],
                capture_output=True, text=True, timeout=duration_s + 30, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            message_ = "h2load or taskset is missing; install them: apt-get install nghttp2-client util-linux"
            raise MeasurementError(message_) from error
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"h2load did not end; {target.authority}{path} does not answer") from error
        good = counted() - before
        found = re.search(r"finished in ([\d.]+)(ms|s), .*?(\d+) succeeded, (\d+) failed", done.stdout, re.DOTALL)
        if found is None or done.returncode:
            raise MeasurementError(f"h2load failed: {done.stderr.strip() or done.stdout.strip()}")
        succeeded, failed = int(found[3]), int(found[4])
        durations_us = [int(line.split("\t")[2]) for line in log.read_text().splitlines()]
    if not succeeded or abs(good - succeeded) > connections * streams:
        raise MeasurementError(f"h2load counts {succeeded} answers ({failed} failed), the server {good:.0f} good ones")
    return min(good, succeeded), durations_us


def h2load_arguments(duration_s: float, connections: int = CONNECTIONS, streams: int = 1) -> list[str]:
    """Return h2load's command line without the message and the URL, also for the report."""
    duration = f"{max(1, round(duration_s))}s"
    return [
        "h2load",
        "--threads=1",
        f"--clients={connections}",
        f"--max-concurrent-streams={streams}",
        f"--duration={duration}",
    ]
