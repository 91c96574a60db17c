"""Signals end a command once, in order, and not before what it started has ended."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from rollout.process import EndedBySignal, recorded_signals, run_until_signal


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_recorded_signal_ends_nothing_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with recorded_signals() as came:
        assert came() == 0
        os.kill(os.getpid(), number)
        assert came() == number
    assert signal.getsignal(number) is before
