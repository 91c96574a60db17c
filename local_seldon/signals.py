"""SIGINT and SIGTERM for commands that start processes: what was started is ended in order before the command ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
BOTH: Final = (signal.SIGINT, signal.SIGTERM)


class EndedBySignal(Exception):
    """A signal ended the coroutine, which has cleaned up. exit_code: 130 or 143, as a shell reports such an end."""

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def run_until_signal(main: Coroutine[Any, Any, Result], say: Callable[[str], None] = lambda line: None) -> Result:
    """Run a coroutine, and cancel it when a signal arrives. Raises EndedBySignal.

    It is cancelled once only: a second signal must not interrupt the cleaning up. say: gets a line for each signal.
    """
    return asyncio.run(_cancelled_once(main, say))


async def _cancelled_once(main: Coroutine[Any, Any, Result], say: Callable[[str], None]) -> Result:
    running = asyncio.ensure_future(main)
    came: list[int] = []

    def end(number: int) -> None:
        say("still ending what was started" if came else "ending what was started")
        if not came:
            came.append(number)
            running.cancel()

    for number in BOTH:
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await running
    except asyncio.CancelledError:
        if came:
            raise EndedBySignal(came[0]) from None
        raise


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Hold signals back for a block, which can ask whether one came; the first one takes effect after the block."""
    came: list[int] = []
    before = {one: signal.signal(one, lambda number, frame: came.append(number)) for one in BOTH}
    try:
        yield lambda: bool(came)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        if came:
            os.kill(os.getpid(), came[0])
