"""What the process of a command needs: SIGINT and SIGTERM that end it in order, and its log on standard error."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
BOTH: Final = (signal.SIGINT, signal.SIGTERM)


class EndedBySignal(Exception):
    """A signal ended the work, which has cleaned up. exit_code: 130 or 143, as a shell reports such an end."""

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


class _Recorder:
    """A handler that notes each signal."""

    def __init__(self) -> None:
        self.came: list[int] = []

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal."""
        self.came.append(number)


@contextmanager
def recorded_signals() -> Iterator[Callable[[], int]]:
    """Record signals for a block instead of ending the process; yields a function: the first one's number, or 0.

    A block within such a block shares its record: a signal that came before the inner one begins is known there.
    """
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, _Recorder):
        yield lambda: outer.came[0] if outer.came else 0
        return
    recorder = _Recorder()
    before = {one: signal.signal(one, recorder) for one in BOTH}
    try:
        yield lambda: recorder.came[0] if recorder.came else 0
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def log_to_stderr(level: int) -> None:
    """Send log events from this level on to standard error, as lines for a person; standard output has the result.

    Colours go to a terminal only, and not with NO_COLOR set.
    """
    import structlog  # takes a while to import, and `--help` needs none

    # structlog's default asks whether standard output is a terminal.
    renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    structlog.configure(
        processors=[*structlog.get_config()["processors"][:-1], renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
