"""Unary gRPC calls for a load test: grpcio in client processes of their own, because one call costs it 100 to 200 us.

The parent process has the interface of `client.Client`: LoadGen's thread submits, a reader thread reports. Requests and
results cross a pipe to each process in batches, whatever has gathered since the last one; a call's times are taken in
its own process (perf_counter is the same clock in every process of a machine).
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from threading import Thread
from time import perf_counter
from typing import Any

from benchmarks.errors import TargetError
from benchmarks.load.connection import Done, PendingRequest
from benchmarks.load.target import Target
from benchmarks.programs import start_uninterrupted

CONNECT_TIMEOUT_S = 10.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# One result as it crosses the pipe: response id, index, issued_s, finished_s, error, detail.
Result = tuple[int, int, float, float, str | None, str]


class GrpcClient:
    """`connections` HTTP/2 connections, one call at a time on each where there are enough, spread over `processes`."""

    def __init__(
        self,
        target: Target,
        path: str,
        bodies: Sequence[bytes],
        *,
        connections: int,
        timeout_s: float,
        processes: int,
        on_done: Callable[[Sequence[Done]], None],
    ) -> None:
        shares = [connections // processes + (number < connections % processes) for number in range(processes)]
        self._arguments = [(target, path, tuple(bodies), share, timeout_s) for share in shares if share]
        self._on_done = on_done
        self._pipes: list[Pipe] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._turns = itertools.count()
        self._reader = Thread(target=self._read, name="load-read", daemon=True)

    def open(self) -> None:
        """Start the processes, and wait until all of them are connected. Raises TargetError when one is not."""
        context = multiprocessing.get_context("spawn")
        for arguments in self._arguments:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
            start_uninterrupted(process)
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            try:
                problem = pipe.recv() if pipe.poll(2 * CONNECT_TIMEOUT_S) else "no answer from a client process"
            except EOFError:
                problem = "a client process ended"
            if problem:
                self.close()
                raise TargetError(problem)
        self._reader.start()

    def submit(self, response_ids: Sequence[int], indexes: Sequence[int]) -> None:
        """Start these calls now. For any one thread."""
        now = perf_counter()
        batch = [(response_id, index, now) for response_id, index in zip(response_ids, indexes, strict=True)]
        count = len(self._pipes)
        if len(batch) < count:
            for call in batch:
                self._pipes[next(self._turns) % count].send([call])
            return
        for number, pipe in enumerate(self._pipes):
            pipe.send(batch[number::count])

    def busiest_cpu_s(self) -> float:
        """Return the CPU seconds of the client process that has used most."""
        return max(map(_cpu_s, [os.getpid(), *(process.pid or 0 for process in self._processes)]))

    def close(self) -> None:
        """End the processes; calls in flight are cancelled."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        if self._reader.ident is not None:
            self._reader.join()
        for pipe in self._pipes:
            pipe.close()

    def _read(self) -> None:
        opened = list(self._pipes)
        while opened:
            for pipe in wait(opened):
                assert isinstance(pipe, Pipe)  # noqa: S101 (nothing else is waited for)
                try:
                    results: list[Result] = pipe.recv()
                except (EOFError, OSError):
                    opened.remove(pipe)
                    continue
                self._on_done(
                    [
                        Done(PendingRequest(response_id, index, issued_s), finished_s, error, detail)
                        for response_id, index, issued_s, finished_s, error, detail in results
                    ]
                )


def _cpu_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _work(pipe: Pipe, target: Target, path: str, bodies: tuple[bytes, ...], connections: int, timeout_s: float) -> None:
    """Live as one client process."""
    import uvloop

    sys.setswitchinterval(0.0005)
    gc.disable()  # a collection would stop every call
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Calls(pipe, target, path, bodies, timeout_s).serve(connections))


class _Calls:
    def __init__(self, pipe: Pipe, target: Target, path: str, bodies: tuple[bytes, ...], timeout_s: float) -> None:
        self._pipe = pipe
        self._target = target
        self._path = f"{target.prefix}{path}"
        self._bodies = bodies
        self._timeout_s = timeout_s
        self._results: list[Result] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()

    async def serve(self, connections: int) -> None:
        """Connect, tell the parent, and make the calls that it sends until the process is terminated."""
        from grpc import aio

        channels = [self._channel() for _ in range(connections)]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
        except TimeoutError:
            self._pipe.send(f"cannot connect to {self._target.host}:{self._target.port} in {CONNECT_TIMEOUT_S:g} s")
            return
        self._error = aio.AioRpcError
        self._metadata = tuple((name.lower(), value) for name, value in self._target.headers if name.lower() != "host")
        self._idle = [channel.unary_unary(self._path) for channel in channels]
        self._calls = itertools.cycle(self._idle)
        self._pipe.send("")
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._receive)
        await self._stopped.wait()

    def _channel(self) -> Any:
        import grpc
        from grpc import aio

        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1)
        ]  # a connection of its own for each channel
        authority = f"{self._target.host}:{self._target.port}"
        if self._target.authority != authority:
            options.append(("grpc.default_authority", self._target.authority))
        if self._target.tls:
            return aio.secure_channel(authority, grpc.ssl_channel_credentials(), options=options)
        return aio.insecure_channel(authority, options=options)

    def _receive(self) -> None:
        while self._pipe.poll():
            try:
                calls = self._pipe.recv()
            except EOFError:  # the parent is gone
                asyncio.get_running_loop().remove_reader(self._pipe.fileno())
                self._stopped.set()
                return
            for call in calls:
                task = asyncio.ensure_future(self._call(*call))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _call(self, response_id: int, index: int, issued_s: float) -> None:
        error, detail = None, ""
        try:
            await next(self._calls)(self._bodies[index], timeout=self._timeout_s, metadata=self._metadata)
        except self._error as failed:
            error, detail = f"gRPC status {failed.code().value[0]}", failed.details() or ""
        if not self._results:
            asyncio.get_running_loop().call_soon(self._flush)
        self._results.append((response_id, index, issued_s, perf_counter(), error, detail))

    def _flush(self) -> None:
        results, self._results = self._results, []
        self._pipe.send(results)
