"""A soak test: mixed traffic for minutes with random faults; no request may be lost, and no resource may grow.

The faults: the store is killed or paused, or the workers are rolled. Once a second a sample takes the memory, open
files and event loop tasks of the workers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.target import Protocol, key_bodies, path_of
from benchmarks.programs import resident_kb
from benchmarks.soak.result import KILL, PAUSE, ROLL, Fault, Sample, SoakResult
from benchmarks.soak.traffic import GrpcCaller, RestCaller, Stream, Traffic
from benchmarks.soak.world import HOST, SoakWorld
from custom_runtime.active import CONTRACT

SAMPLE_S = 1.0
# Workers are rolled in the first part of a run only: a new process would hide what an old one leaks.
ROLLS_UNTIL = 0.5


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """Duration, request rate, workers, and the seed of the faults."""

    seconds: float
    qps: float
    bundle: Path
    directory: Path
    workers: int = 2
    seed: int = 0


async def soak(plan: SoakPlan, on_progress: Callable[[SoakResult], None] = lambda result: None) -> SoakResult:
    """Run one test. Raises MeasurementError when the service or Redis cannot start."""
    result = SoakResult(workers=plan.workers)
    async with SoakWorld(plan.directory, bundle=plan.bundle, workers=plan.workers) as world:
        result.started_s = time.perf_counter()
        async with Traffic(_streams(world, plan.qps)) as traffic:
            result.outcomes = traffic.outcomes
            faults = inject_faults(
                world, result.faults, started_s=result.started_s, seconds=plan.seconds, seed=plan.seed
            )
            sampling = asyncio.create_task(_sample_every_second(world, result, on_progress))
            breaking = asyncio.create_task(faults)
            background = [sampling, breaking]
            try:
                await asyncio.wait(background, timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in background:
                    if task.done():
                        task.result()
                await breaking  # until the last fault has ended
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
            for task in background:
                if not task.cancelled():
                    task.result()
            await traffic.stop()
            result.sent = traffic.sent
        result.inflight_at_end = await asyncio.to_thread(world.gauge, "serving_inflight")
    return result


def _streams(world: SoakWorld, qps: float) -> list[Stream]:
    keys = range(1, 7044)

    def bodies(protocol: Protocol) -> Callable[[int], bytes]:
        made = key_bodies(protocol, CONTRACT.name, keys)
        return lambda number: made[number * 7919 % len(made)]

    def rest(protocol: Protocol, *, fresh: bool = False) -> RestCaller:
        return RestCaller(HOST, world.http_port, path_of(protocol, CONTRACT.name), fresh=fresh)

    predict, v2_rest = bodies(Protocol.PREDICT), bodies(Protocol.V2_REST)
    rpc = GrpcCaller(HOST, world.grpc_port)
    return [
        Stream("predict", rest(Protocol.PREDICT), predict, qps * 0.4),
        Stream("fresh", rest(Protocol.PREDICT, fresh=True), predict, qps * 0.1),
        Stream("v2_rest", rest(Protocol.V2_REST), v2_rest, qps * 0.2),
        Stream("v2_grpc", rpc, bodies(Protocol.V2_GRPC), qps * 0.25),
        Stream("abandoned", rest(Protocol.PREDICT, fresh=True), predict, qps * 0.05, abandon=True),
    ]


async def _sample_every_second(world: SoakWorld, result: SoakResult, on_progress: Callable[[SoakResult], None]) -> None:
    while True:
        sample = await take_sample(world, started_s=result.started_s)
        if sample is not None:
            result.samples.append(sample)
        on_progress(result)
        await asyncio.sleep(SAMPLE_S)


async def inject_faults(world: SoakWorld, faults: list[Fault], *, started_s: float, seconds: float, seed: int) -> None:
    """Inject one fault after the other until the time is over, each kind once per cycle, and append it to `faults`."""
    rng = random.Random(seed)  # noqa: S311 (not for secrets)
    kinds: list[str] = []
    while True:
        await asyncio.sleep(rng.uniform(1.0, 3.0))
        from_s = time.perf_counter() - started_s
        if from_s > seconds - 3.0:
            await asyncio.sleep(seconds - from_s)
            return
        if not kinds:
            kinds = [KILL, PAUSE] + [ROLL] * (from_s < seconds * ROLLS_UNTIL)
            rng.shuffle(kinds)
        kind = kinds.pop()
        if kind == KILL:
            await asyncio.to_thread(world.store.kill)
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            await world.start_store()
        elif kind == PAUSE:
            world.store.pause()
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            world.store.resume()
        else:
            await world.roll()
        faults.append(Fault(kind, from_s, time.perf_counter() - started_s))


async def take_sample(world: SoakWorld, *, started_s: float) -> Sample | None:
    """Return a sample of the serving workers; None when all of them are only starting."""
    usage = [used for pid in world.workers() if (used := _usage(pid))]
    if not usage:
        return None
    memory_mb, files = (sum(column) for column in zip(*usage, strict=True))
    files -= _sockets()
    tasks = await asyncio.to_thread(world.gauge, "serving_event_loop_tasks")
    average = (one / len(usage) for one in (memory_mb, files, tasks))
    return Sample(time.perf_counter() - started_s, *average)


def _sockets() -> int:
    """Return how many sockets this process has: its connections to the service, and a few that stay."""
    links = [_link(file) for file in Path("/proc/self/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:  # closed meanwhile
        return ""


def _usage(pid: int) -> tuple[float, int] | None:
    """Return a process's resident MB and its open files; None when it has ended or is only starting."""
    memory_kb = resident_kb(pid)
    try:
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    return (memory_kb / 1024, files) if memory_kb else None
