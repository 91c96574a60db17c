"""Several serving processes on one node: one REST port, one metrics endpoint, one process to signal.

Every worker has its own socket on the shared port (SO_REUSEPORT: the kernel spreads connections). The supervisor keeps
those sockets open, so that connections in the queue of a worker that died are answered by its replacement. A worker
that dies soon after its start gives its socket up: no connection waits for one that may not come.

SIGTERM and SIGINT drain all workers; SIGHUP replaces them one by one: the new worker serves before the old one drains.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import structlog
from mlserver.settings import Settings
from prometheus_client.multiprocess import mark_process_dead
from pydantic import ValidationError

from custom_runtime.errors import StartupError
from custom_runtime.network.sockets import BACKLOG, bound_socket, refuse_handshakes
from custom_runtime.server.logs import configure_logs
from custom_runtime.server.process import banner
from custom_runtime.server.worker import Worker, serve_metrics, start_worker
from custom_runtime.settings import ServingSettings, one_line

log = structlog.get_logger()

RESTART_FIRST_S, RESTART_LONGEST_S = 0.1, 5.0
# A worker that served this long did not fail at its start: its replacement starts without a delay.
SETTLED_S = 10.0
CLOSE_BEFORE_WORKERS_S = 0.1


class Supervisor:
    """Keeps `workers` processes of `command` serving.

    Whatever replaces the worker of a slot, a death or a roll, holds the slot's lock: a slot never has two replacements.
    """

    def __init__(self, command: Sequence[str], *, workers: int, settings: Settings, metrics: str) -> None:
        self._command = command
        self._settings = settings
        self._metrics = metrics
        self._workers: list[Worker] = []
        self._listeners = [self._bind() for _ in range(workers)]
        self._locks = [asyncio.Lock() for _ in range(workers)]
        self._started: list[Worker] = []
        self._stopping = asyncio.Event()
        self._roll_requested = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal; return 0, or 1 when a worker cannot start in the first place."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._roll_requested.set)  # takes effect once all workers have started
        for listener in self._listeners:
            listener.listen(BACKLOG)
        stopped = loop.create_task(self._stopping.wait())
        self._workers = [await self._start(slot) for slot in range(len(self._listeners))]
        starting = asyncio.gather(*(worker.ready for worker in self._workers))
        first_of: tuple[asyncio.Future[Any], ...] = (starting, stopped)
        await asyncio.wait(first_of, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done() or not all(starting.result()):
            starting.cancel()
            stopped.cancel()
            await self._drain()
            return 0 if self._stopping.is_set() else 1
        tasks = [loop.create_task(self._watch(slot)) for slot in range(len(self._workers))]
        tasks.append(loop.create_task(self._roll_on_signal()))
        print(banner(self._settings), flush=True)
        await stopped
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._drain(ServingSettings().drain_delay_s)
        return 0

    def _bind(self) -> socket.socket:
        return bound_socket(self._settings.host, self._settings.http_port, share=True)

    async def _start(self, slot: int) -> Worker:
        worker = await start_worker(self._command, self._listeners[slot], metrics=self._metrics)
        self._started = [other for other in self._started if other.process.returncode is None] + [worker]
        return worker

    async def _watch(self, slot: int) -> None:
        """Replace the worker of one slot whenever it dies."""
        delay_s = RESTART_FIRST_S
        while True:
            worker = self._workers[slot]
            code = await worker.process.wait()
            mark_process_dead(worker.process.pid, self._metrics)  # type: ignore[no-untyped-call]
            async with self._locks[slot]:
                if self._workers[slot] is not worker:  # a roll has replaced it
                    continue
                if worker.served_s() > SETTLED_S:
                    delay_s = RESTART_FIRST_S
                else:
                    self._withdraw(slot)
                log.warning("worker_died", slot=slot, pid=worker.process.pid, exit_code=code, restart_in_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RESTART_LONGEST_S)
                self._workers[slot] = await self._start(slot)

    def _withdraw(self, slot: int) -> None:
        """Take a slot's socket out of the port's group, because nobody serves it soon.

        The kernel would go on giving it its share of the new connections. The new socket joins the group when the
        replacement listens on it, which it does once it can serve.
        """
        self._listeners[slot].close()
        self._listeners[slot] = self._bind()

    async def _roll_on_signal(self) -> None:
        """Roll once for each signal; a signal during a roll starts another roll after it."""
        while True:
            await self._roll_requested.wait()
            self._roll_requested.clear()
            for slot in range(len(self._workers)):
                if not await self._roll(slot):
                    break

    async def _roll(self, slot: int) -> bool:
        """Replace one worker; return False when its replacement does not start: the roll ends there."""
        async with self._locks[slot]:
            old = self._workers[slot]
            new = await self._start(slot)
            if not await new.ready:
                log.error(
                    "roll_stopped", slot=slot, reason="the new worker did not start; the old workers keep serving"
                )
                return False
            self._workers[slot] = new
        if old.process.returncode is None:
            old.process.send_signal(signal.SIGTERM)
        await old.process.wait()
        log.info("worker_rolled", slot=slot, old_pid=old.process.pid, new_pid=new.process.pid)
        return True

    async def _drain(self, delay_s: float = 0.0) -> None:
        """Stop all workers; they keep accepting connections for `delay_s` seconds."""
        for worker in self._started:  # includes one that was about to replace another
            if worker.process.returncode is None:
                worker.process.send_signal(signal.SIGTERM)
        ends = [asyncio.ensure_future(worker.process.wait()) for worker in self._started]
        # Just before the workers stop accepting: a later connection would wait in the queue without being accepted.
        await asyncio.wait(ends, timeout=max(0.0, delay_s - CLOSE_BEFORE_WORKERS_S))
        for listener in self._listeners:
            refuse_handshakes(listener)
        await asyncio.gather(*ends)
        for listener in self._listeners:
            listener.close()


def supervise(command: Sequence[str], *, workers: int) -> int:
    """Run `workers` processes of `command` until a signal; return the exit code."""
    configure_logs()
    metrics = tempfile.mkdtemp(prefix="serving-metrics-")
    try:
        settings = Settings()
        ServingSettings()  # a wrong value ends the start before any worker begins
        server = serve_metrics(settings, metrics)
        try:
            return asyncio.run(_run(command, workers, settings, metrics))
        finally:
            server.shutdown()
            server.server_close()
    except (StartupError, ValidationError) as error:
        print(f"churn-serving cannot start: {one_line(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"churn-serving cannot start: {error.strerror or error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(metrics, ignore_errors=True)


async def _run(command: Sequence[str], workers: int, settings: Settings, metrics: str) -> int:
    return await Supervisor(command, workers=workers, settings=settings, metrics=metrics).run()
