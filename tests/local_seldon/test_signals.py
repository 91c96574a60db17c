"""Signals end a command once, in order, and not before what it started has ended."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from local_seldon.signals import EndedBySignal, deferred_signals, run_until_signal


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_once_and_the_cleaning_up_is_finished(number: signal.Signals, code: int) -> None:
    said: list[str] = []
    done: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.01)
            done.append("cleaned up")

    with pytest.raises(EndedBySignal) as ended:
        run_until_signal(work(), said.append)
    assert (ended.value.exit_code, done) == (code, ["cleaned up"])
    assert said == ["ending what was started", "still ending what was started"]


def test_without_a_signal_the_result_and_an_own_cancellation_are_as_ever() -> None:
    async def answer() -> int:
        return 42

    async def give_up() -> None:
        raise asyncio.CancelledError

    assert run_until_signal(answer()) == 42
    with pytest.raises(asyncio.CancelledError):
        run_until_signal(give_up())


def test_a_deferred_signal_is_seen_in_the_block_and_takes_effect_after_it() -> None:
    steps = []

    def work() -> None:
        with deferred_signals() as is_interrupted:
            steps.append(is_interrupted())
            os.kill(os.getpid(), signal.SIGINT)
            steps.append(is_interrupted())

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == [False, True]
