"""An attempt to connect, in a task that outlives the request that asked for it.

A TLS handshake or a cluster's topology may take longer than a request may wait: the next request finds the connection
made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Connecting:
    """One attempt to connect at a time, shared by all who wait; who gives up waiting does not end it."""

    def __init__(self, connect: Callable[[], Awaitable[None]], *, timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Return the running attempt; begin one when there is none."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._attempt())
            self._task.add_done_callback(_retrieve)
        return self._task

    async def wait(self) -> None:
        """Return when the running attempt has succeeded; raise as it does."""
        await asyncio.shield(self.start())

    async def cancel(self) -> None:
        """End the running attempt."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def _attempt(self) -> None:
        async with asyncio.timeout(self._timeout_s):
            await self._connect()


def _retrieve(task: asyncio.Task[None]) -> None:
    # Everyone who waited may be gone; asyncio would log the exception as never retrieved.
    if not task.cancelled():
        task.exception()
