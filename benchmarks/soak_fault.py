"""What is done to the service during a soak test: its store killed or paused, its workers rolled, at random."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import NamedTuple

from benchmarks.soak_world import SoakWorld

KILL, PAUSE, ROLL = "store killed", "store paused", "workers rolled"
# Workers are rolled in the first part of a run only: a new process would hide what an old one leaks.
ROLLS_UNTIL = 0.5


class Fault(NamedTuple):
    """What was done to it, from when to when (seconds since the start)."""

    kind: str
    from_s: float
    to_s: float


async def inject_faults(world: SoakWorld, faults: list[Fault], *, started_s: float, seconds: float, seed: int) -> None:
    """Do one fault after the other, each kind once before one comes again, until the time is over; `faults` grows."""
    dice = random.Random(seed)  # noqa: S311 (not for secrets)
    kinds: list[str] = []
    while True:
        await asyncio.sleep(dice.uniform(1.0, 3.0))
        from_s = time.perf_counter() - started_s
        if from_s > seconds - 3.0:
            await asyncio.sleep(seconds - from_s)
            return
        if not kinds:
            kinds = [KILL, PAUSE] + [ROLL] * (from_s < seconds * ROLLS_UNTIL)
            dice.shuffle(kinds)
        kind = kinds.pop()
        if kind == KILL:
            await asyncio.to_thread(world.kill_store)
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            await world.start_store()
        elif kind == PAUSE:
            world.signal_store(signal.SIGSTOP)
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            world.signal_store(signal.SIGCONT)
        else:
            await world.roll()
        faults.append(Fault(kind, from_s, time.perf_counter() - started_s))
