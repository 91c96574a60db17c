import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_runtime.errors import DeadlineExceeded
from custom_runtime.prediction.coalescer import HALF_LIFE_S, Coalescer

FAR = 1e9


@dataclass(frozen=True)
class Job:
    name: str
    size: int = 1


class Batches:
    """Records batches; a batch ends when the test says so, or at once."""

    def __init__(self, *, held: bool = False) -> None:
        self.seen: list[list[str]] = []
        self.gate = asyncio.Event()
        if not held:
            self.gate.set()

    async def run(self, jobs: list[Job]) -> list[str | Exception]:
        self.seen.append([job.name for job in jobs])
        await self.gate.wait()
        return [ValueError(job.name) if job.name == "bad" else job.name.upper() for job in jobs]


def coalescer(batches: Batches, *, max_rows: int = 100, now: float = 0.0) -> Coalescer[Job, str]:
    return Coalescer(batches.run, max_rows=max_rows, clock=lambda: now)


async def test_jobs_of_one_turn_are_one_batch() -> None:
    batches = Batches()
    joined = coalescer(batches)
    futures = [joined.submit(Job(name), deadline=FAR) for name in "abc"]
    assert await asyncio.gather(*futures) == ["A", "B", "C"]
    assert batches.seen == [["a", "b", "c"]]


async def test_what_waits_while_a_batch_is_in_flight_is_the_next_batch() -> None:
    batches = Batches(held=True)
    joined = coalescer(batches)
    first = joined.submit(Job("a"), deadline=FAR)
    await asyncio.sleep(0)
    rest = [joined.submit(Job(name), deadline=FAR) for name in "bc"]
    await asyncio.sleep(0)
    assert batches.seen == [["a"]]
    batches.gate.set()
    await asyncio.gather(first, *rest)
    assert batches.seen == [["a"], ["b", "c"]]


async def test_after_a_crowded_batch_one_more_turn_is_waited_for_and_a_lone_request_never_waits() -> None:
    batches = Batches()
    joined = coalescer(batches)
    await asyncio.gather(*(joined.submit(Job(name), deadline=FAR) for name in "ab"))
    early = joined.submit(Job("early"), deadline=FAR)
    await asyncio.sleep(0)
    late = joined.submit(Job("late"), deadline=FAR)
    await asyncio.gather(early, late)
    lone = joined.submit(Job("lone"), deadline=FAR)
    await asyncio.gather(lone)
    after = joined.submit(Job("after"), deadline=FAR)
    await asyncio.sleep(0)
    assert batches.seen == [["a", "b"], ["early", "late"], ["lone"], ["after"]]
    assert await after == "AFTER"


async def test_a_batch_is_bounded_and_a_job_bigger_than_the_bound_goes_alone() -> None:
    batches = Batches()
    joined = coalescer(batches, max_rows=3)
    jobs = [Job("a", 2), Job("b", 2), Job("c", 1), Job("big", 9), Job("d", 1)]
    await asyncio.gather(*(joined.submit(job, deadline=FAR) for job in jobs))
    assert batches.seen == [["a"], ["b", "c"], ["big"], ["d"]]


async def test_a_failed_or_cancelled_job_leaves_its_batch_mates_alone() -> None:
    batches = Batches(held=True)
    joined = coalescer(batches)
    good, bad, gone = (joined.submit(Job(name), deadline=FAR) for name in ("good", "bad", "gone"))
    await asyncio.sleep(0)
    gone.cancel()
    batches.gate.set()
    assert await good == "GOOD"
    with pytest.raises(ValueError, match="bad"):
        await bad
    assert await joined.submit(Job("later"), deadline=FAR) == "LATER"


async def test_a_job_that_is_cancelled_while_it_waits_is_never_run() -> None:
    batches = Batches(held=True)
    joined = coalescer(batches)
    first = joined.submit(Job("first"), deadline=FAR)
    await asyncio.sleep(0)
    joined.submit(Job("gone"), deadline=FAR).cancel()
    batches.gate.set()
    await first
    await joined.submit(Job("last"), deadline=FAR)
    assert batches.seen == [["first"], ["last"]]


async def test_a_batch_that_raises_fails_its_own_jobs_only() -> None:
    calls = 0

    async def run(jobs: list[Job]) -> list[str | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("disk")
        return [job.name for job in jobs]

    joined: Coalescer[Job, str] = Coalescer(run, max_rows=10, clock=lambda: 0.0)
    failed = [joined.submit(Job(name), deadline=FAR) for name in "ab"]
    for future in failed:
        with pytest.raises(OSError, match="disk"):
            await future
    assert await joined.submit(Job("c"), deadline=FAR) == "c"


async def test_a_job_whose_deadline_has_passed_is_refused_and_not_run() -> None:
    batches = Batches()
    joined = coalescer(batches, now=10.0)
    late, timely = joined.submit(Job("late"), deadline=9.98), joined.submit(Job("timely"), deadline=10.5)
    with pytest.raises(DeadlineExceeded, match="20 ms after the deadline"):
        await late
    assert await timely == "TIMELY"
    assert batches.seen == [["timely"]]


@given(st.lists(st.integers(1, 7), max_size=40), st.integers(1, 10))
def test_every_job_is_answered_once_in_order_within_the_bound(sizes: list[int], max_rows: int) -> None:
    seen: list[list[int]] = []

    async def run(jobs: list[Job]) -> list[str | Exception]:
        seen.append([job.size for job in jobs])
        return [job.name for job in jobs]

    async def scenario() -> list[str]:
        joined: Coalescer[Job, str] = Coalescer(run, max_rows=max_rows, clock=lambda: 0.0)
        jobs = (Job(str(number), size) for number, size in enumerate(sizes))
        return await asyncio.gather(*(joined.submit(job, deadline=FAR) for job in jobs))

    assert asyncio.run(scenario()) == [str(number) for number in range(len(sizes))]
    assert [size for batch in seen for size in batch] == sizes
    assert all(len(batch) == 1 or sum(batch) <= max_rows for batch in seen)


async def test_the_wait_of_a_new_job_is_foreseen_by_the_pace_of_full_batches() -> None:
    times = [0.0]

    async def run(jobs: list[Job]) -> list[str | Exception]:
        times[0] += 0.25 * sum(job.size for job in jobs)
        return [job.name for job in jobs]

    joined: Coalescer[Job, str] = Coalescer(run, max_rows=2, clock=lambda: times[0])
    assert await joined.submit(Job("alone"), deadline=FAR) == "alone"
    first = [joined.submit(Job(name), deadline=FAR) for name in "abc"]
    assert joined.expected_wait_s() == 0  # no full batch has been seen
    await asyncio.gather(*first)
    later = [joined.submit(Job(name, 2), deadline=FAR) for name in "de"]
    # 4 rows of 0.25 s each; the last batch ended 0.25 s ago, so the figure counts half.
    assert joined.expected_wait_s() == pytest.approx(1.0 * 0.5 ** (0.25 / HALF_LIFE_S))
    later[0].cancel()
    await later[1]
    assert joined.expected_wait_s() == 0


async def test_one_stall_is_forgotten_with_the_next_batch_even_where_no_batch_is_ever_full_again() -> None:
    times, pace_s = [0.0], [2.0]

    async def run(jobs: list[Job]) -> list[str | Exception]:
        times[0] += pace_s[0]
        return [job.name for job in jobs]

    joined: Coalescer[Job, str] = Coalescer(run, max_rows=1, clock=lambda: times[0])
    stalled = [joined.submit(Job(name), deadline=FAR) for name in "ab"]
    await asyncio.gather(*stalled)
    pace_s[0] = 0.0001
    await joined.submit(Job("c"), deadline=FAR)
    await asyncio.sleep(0)
    waiting = joined.submit(Job("d"), deadline=FAR)
    assert joined.expected_wait_s() <= 0.0001
    await waiting


async def test_what_was_slow_counts_half_after_every_half_life() -> None:
    times = [0.0]

    async def run(jobs: list[Job]) -> list[str | Exception]:
        times[0] += 1.0
        return [job.name for job in jobs]

    joined: Coalescer[Job, str] = Coalescer(run, max_rows=1, clock=lambda: times[0])
    await asyncio.gather(*(joined.submit(Job(name), deadline=FAR) for name in "ab"))
    times[0] += 10 * HALF_LIFE_S
    waiting = joined.submit(Job("c"), deadline=FAR)
    assert joined.expected_wait_s() < 0.001
    await waiting


async def test_answers_leave_between_two_batches_of_a_store_that_never_waits() -> None:
    batches = Batches()
    joined = coalescer(batches, max_rows=1)
    order: list[str] = []

    async def ask(name: str) -> None:
        await joined.submit(Job(name), deadline=FAR)
        order.append(f"{name} after {len(batches.seen)}")

    await asyncio.gather(*(ask(name) for name in "abc"))
    assert order[0] in ("a after 1", "a after 2")


async def test_every_job_leaves_once_however_it_ends() -> None:
    left: list[None] = []
    batches = Batches(held=True)
    joined: Coalescer[Job, str] = Coalescer(
        batches.run, max_rows=100, clock=lambda: 10.0, on_left=lambda: left.append(None)
    )
    good, bad, gone = (joined.submit(Job(name), deadline=FAR) for name in ("good", "bad", "gone"))
    late = joined.submit(Job("late"), deadline=9.0)
    await asyncio.sleep(0)
    assert len(left) == 1  # the late one
    with pytest.raises(DeadlineExceeded):
        late.result()
    assert gone.cancel()
    assert not gone.cancel()
    assert len(left) == 2
    batches.gate.set()
    assert await good == "GOOD"
    with pytest.raises(ValueError, match="bad"):
        await bad
    with pytest.raises(asyncio.CancelledError):
        gone.result()
    assert (len(left), gone.cancelled(), bad.cancelled(), late.cancel()) == (4, True, False, False)


async def test_a_callback_is_called_at_once_and_its_error_is_nobody_elses() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    joined = coalescer(Batches())
    first, second = (joined.submit(Job(name), deadline=FAR) for name in "ab")
    first.add_done_callback(lambda _: 1 / 0)
    called: list[str] = []
    second.add_done_callback(lambda ended: called.append(ended.result()))
    assert await joined.submit(Job("c"), deadline=FAR) == "C"
    assert called == ["B"]
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


async def test_a_wait_that_is_cancelled_cancels_its_job() -> None:
    batches = Batches(held=True)
    joined = coalescer(batches)
    submission = joined.submit(Job("a"), deadline=FAR)

    async def wait() -> str:
        return await submission

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert submission.cancelled()
    batches.gate.set()
    assert await joined.submit(Job("b"), deadline=FAR) == "B"
