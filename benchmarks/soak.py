"""A soak test: mixed traffic for minutes while faults happen at random; nothing may be lost, and nothing may grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.callers import GrpcCaller, RestCaller
from benchmarks.payload import Protocol, customer_bodies, path_of
from benchmarks.soak_fault import inject_faults
from benchmarks.soak_result import SoakResult
from benchmarks.soak_sample import take_sample
from benchmarks.soak_world import HOST, SoakWorld
from benchmarks.traffic import Stream, Traffic

SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """How long, how much, and by which dice."""

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
            sampling = asyncio.create_task(_watch(world, result, on_progress))
            breaking = asyncio.create_task(faults)
            background = [sampling, breaking]
            await asyncio.wait(background, timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in background:
                if task.done():
                    task.result()
            await breaking  # the last fault heals
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            await traffic.stop()
            result.sent = traffic.sent
        result.inflight_at_end = await asyncio.to_thread(world.gauge, "churn_inflight")
    return result


def _streams(world: SoakWorld, qps: float) -> list[Stream]:
    customers = range(1, 7044)

    def bodies(protocol: Protocol) -> Callable[[int], bytes]:
        made = customer_bodies(protocol, "churn", customers)
        return lambda number: made[number * 7919 % len(made)]

    def rest(protocol: Protocol, *, fresh: bool = False) -> RestCaller:
        return RestCaller(HOST, world.http_port, path_of(protocol, "churn"), fresh=fresh)

    predict, v2_rest = bodies(Protocol.PREDICT), bodies(Protocol.V2_REST)
    rpc = GrpcCaller(HOST, world.grpc_port)
    return [
        Stream("predict", rest(Protocol.PREDICT), predict, qps * 0.4),
        Stream("fresh", rest(Protocol.PREDICT, fresh=True), predict, qps * 0.1),
        Stream("v2_rest", rest(Protocol.V2_REST), v2_rest, qps * 0.2),
        Stream("v2_grpc", rpc, bodies(Protocol.V2_GRPC), qps * 0.25),
        Stream("abandoned", rest(Protocol.PREDICT, fresh=True), predict, qps * 0.05, abandon=True),
    ]


async def _watch(world: SoakWorld, result: SoakResult, on_progress: Callable[[SoakResult], None]) -> None:
    while True:
        sample = await take_sample(world, started_s=result.started_s)
        if sample is not None:
            result.samples.append(sample)
        on_progress(result)
        await asyncio.sleep(SAMPLE_S)
