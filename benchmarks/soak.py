"""A soak test: mixed traffic for minutes while faults happen at random; nothing may be lost, and nothing may grow."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.callers import GrpcCaller, RestCaller
from benchmarks.payload import Protocol, customer_bodies, path_of
from benchmarks.soak_world import HOST, SoakWorld
from benchmarks.traffic import Outcome, Stream, Traffic

SAMPLE_S = 1.0
ROLL = "workers rolled"
# Workers are rolled in the first part of a run only: a new process would hide what an old one leaks.
ROLLS_UNTIL = 0.5
# A worker that was just rolled fills its pools and buffers by some 30 MB in its first half minute under load.
SETTLING_S = 30.0
# What a settled worker may grow by: a leak of 1 kB a request would be 30 MB in the second half of 10 minutes.
GROWTH_MB, GROWTH_FILES, GROWTH_TASKS = 15.0, 8, 8
UNSETTLED_MB = 40.0
ALLOWED = ("200", "503 store_unavailable", "503 overloaded", "gone")


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """How long, how much, and by which dice."""

    seconds: float
    qps: float
    bundle: Path
    directory: Path
    workers: int = 2
    seed: int = 0


class Sample(NamedTuple):
    """The service at one moment: resident MB, files and event loop tasks of an average worker.

    files: those that it has open, without the connections that this client keeps to it.
    """

    at_s: float
    memory_mb: float
    files: float
    tasks: float


class Growth(NamedTuple):
    """What an average worker has more of at the end; allowed_mb: more where there was no time to settle."""

    memory_mb: float
    files: float
    tasks: float
    allowed_mb: float


class Fault(NamedTuple):
    """What was done to it, from when to when (seconds since the start)."""

    kind: str
    from_s: float
    to_s: float


@dataclass(slots=True)
class SoakResult:
    """What happened."""

    workers: int = 2
    sent: int = 0
    inflight_at_end: float = 0.0
    started_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def results(self) -> Counter[str]:
        """How often each result was seen."""
        return Counter(one.result for one in self.outcomes)

    @property
    def complaints(self) -> list[str]:
        """Why the run failed; empty when it did not."""
        found = []
        if self.sent != len(self.outcomes):
            found.append(f"{self.sent} requests were sent, {len(self.outcomes)} are accounted for")
        found += [f"{count} x {result}" for result, count in self.results.items() if not result.startswith(ALLOWED)]
        if not self.results["200"]:
            found.append("no request was answered with 200")
        growth = self.growth
        for what, grown, allowed in (
            ("MB", growth.memory_mb, growth.allowed_mb),
            ("files", growth.files, GROWTH_FILES),
            ("tasks", growth.tasks, GROWTH_TASKS),
        ):
            if grown > allowed:
                found.append(f"a worker grew by {grown:.0f} {what}; allowed: {allowed:g}")
        if self.inflight_at_end:
            found.append(f"{self.inflight_at_end:g} requests are still in flight; allowed: 0")
        return found

    @property
    def growth(self) -> Growth:
        """How much a worker grew from when all had settled after the last roll until the end."""
        rolled_s = max((fault.to_s for fault in self.faults if fault.kind == ROLL), default=0.0)
        ended_s = self.samples[-1].at_s if self.samples else 0.0
        settled_s = min(rolled_s + SETTLING_S, (rolled_s + ended_s) / 2)
        settled = [one for one in self.samples if one.at_s >= settled_s]
        fifth = len(settled) // 5
        if not fifth:
            return Growth(0.0, 0.0, 0.0, GROWTH_MB)
        early, late = settled[:fifth], settled[-fifth:]
        allowed_mb = GROWTH_MB if settled_s >= rolled_s + SETTLING_S else UNSETTLED_MB
        return Growth(
            median(one.memory_mb for one in late) - median(one.memory_mb for one in early),
            median(one.files for one in late) - median(one.files for one in early),
            median(one.tasks for one in late) - median(one.tasks for one in early),
            allowed_mb,
        )


async def soak(plan: SoakPlan, on_progress: Callable[[SoakResult], None] = lambda result: None) -> SoakResult:
    """Run one test. Raises MeasurementError when the service or Redis cannot start."""
    result = SoakResult(workers=plan.workers)
    async with SoakWorld(plan.directory, bundle=plan.bundle, workers=plan.workers) as world:
        result.started_s = time.perf_counter()
        async with Traffic(_streams(world, plan.qps)) as traffic:
            result.outcomes = traffic.outcomes
            background = [
                asyncio.create_task(_sample(world, result, on_progress)),
                asyncio.create_task(_break(world, result, plan)),
            ]
            await asyncio.wait(background, timeout=plan.seconds, return_when=asyncio.FIRST_COMPLETED)
            sampling, breaking = background
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


async def _break(world: SoakWorld, result: SoakResult, plan: SoakPlan) -> None:
    """Do one fault after the other, each kind once before one comes again, until the time is over."""
    dice = random.Random(plan.seed)  # noqa: S311 (not for secrets)
    kinds: list[str] = []
    while True:
        await asyncio.sleep(dice.uniform(1.0, 3.0))
        from_s = time.perf_counter() - result.started_s
        if from_s > plan.seconds - 3.0:
            await asyncio.sleep(plan.seconds - from_s)
            return
        if not kinds:
            kinds = ["store killed", "store paused"] + [ROLL] * (from_s < plan.seconds * ROLLS_UNTIL)
            dice.shuffle(kinds)
        kind = kinds.pop()
        if kind == "store killed":
            await asyncio.to_thread(world.kill_store)
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            await world.start_store()
        elif kind == "store paused":
            world.signal_store(signal.SIGSTOP)
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            world.signal_store(signal.SIGCONT)
        else:
            await world.roll()
        result.faults.append(Fault(kind, from_s, time.perf_counter() - result.started_s))


async def _sample(world: SoakWorld, result: SoakResult, on_progress: Callable[[SoakResult], None]) -> None:
    while True:
        usage = [used for pid in world.workers() if (used := _usage(pid))]
        if usage:
            memory_mb, files = (sum(column) for column in zip(*usage, strict=True))
            files -= _sockets()
            tasks = await asyncio.to_thread(world.gauge, "churn_event_loop_tasks")
            average = (one / len(usage) for one in (memory_mb, files, tasks))
            result.samples.append(Sample(time.perf_counter() - result.started_s, *average))
        on_progress(result)
        await asyncio.sleep(SAMPLE_S)


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
    """Return a process's resident MB and its open files; None: it is gone, or only starts."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    memory_kb = int(found[1]) if (found := re.search(r"VmRSS:\s+(\d+)", status)) else 0
    return (memory_kb / 1024, files) if memory_kb else None
