"""Starts, finds and stops an `up`. A lock allows one per deployment, and is released when its process ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from local_seldon.deployment import check_supported, read_manifest, replicas
from local_seldon.environment import environment
from local_seldon.errors import AlreadyRunning, DidNotStart, NotRunning
from local_seldon.operator import Operator, Options, clear
from local_seldon.process import identity
from local_seldon.replica import Ports
from rollout.errors import ManifestError
from rollout.process import EndedBySignal
from rollout.targets.local_store import LocalStore
from rollout.targets.place import STATE_ROOT

DOWN_TIMEOUT_S = 60.0


def store_of(file: Path, root: Path = STATE_ROOT) -> LocalStore:
    """Return the store of a manifest file's deployment. Raises ManifestError."""
    try:
        deployment = read_manifest(file.read_bytes())
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}") from error
    return LocalStore.of(root, deployment.namespace, deployment.name)


def plan(file: Path, options: Options) -> dict[str, Any]:
    """Return what `up` would start, by predictor. Raises the same errors as `up`."""
    deployment = read_manifest(file.read_bytes())
    check_supported(deployment)
    ports = Ports(0, 0, 0)
    return {
        predictor.name: {
            "replicas": replicas(deployment, predictor),
            "command": list(options.command),
            "env": environment(deployment, predictor, ports, options.overrides, {}),
        }
        for predictor in deployment.predictors
    }


def run(file: Path, options: Options, root: Path = STATE_ROOT) -> None:
    """Run a deployment in the foreground until SIGTERM, SIGINT or a closed terminal. Raises AlreadyRunning."""
    store = store_of(file, root)
    with _held(store):
        asyncio.run(_run(Operator(file, store, options)))


async def _run(operator: Operator) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a background shell
            loop.add_signal_handler(number, operator.stop)
    await operator.run()


def detach(
    argv: Sequence[str],
    store: LocalStore,
    timeout_s: float,
    *,
    came: Callable[[], int] = lambda: 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Start `up` in the background, wait until the deployment is Available, and return its runtime.

    came: the number of a signal that the caller has recorded, or 0. say: gets a line when the start is given up.
    Raises AlreadyRunning, EndedBySignal, or DidNotStart with the end of its log; then nothing runs.
    """
    if is_running(store):
        raise AlreadyRunning(_already(store))
    store.directory.mkdir(parents=True, exist_ok=True)
    file = store.directory / "controller.log"
    with file.open("wb") as output:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_available(store, process, timeout_s, came)
    except BaseException as error:
        if isinstance(error, EndedBySignal):
            say("ending what was started")
        process.terminate()  # drains what it has started, and waits for it
        process.wait()
        if isinstance(error, DidNotStart):
            end = "\n".join(file.read_text(errors="replace").splitlines()[-15:])
            raise DidNotStart(f"{error}; {file} ends in:\n{end}") from error
        raise
    return store.runtime()


def _wait_until_available(
    store: LocalStore, process: subprocess.Popen[bytes], timeout_s: float, came: Callable[[], int]
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        ours = store.runtime().get("controller_pid") == process.pid  # not of an earlier one that was killed
        status = store.read().get("status", {}) if ours else {}
        if number := came():
            raise EndedBySignal(number)
        if status.get("state") == "Available":
            return
        if process.poll() is not None:
            raise DidNotStart("the controller ended before the deployment was Available")
        if time.monotonic() > deadline_s:
            raise DidNotStart(f"not Available within {timeout_s:.0f} s: {status.get('description') or 'not ready'}")
        time.sleep(0.05)


def down(store: LocalStore) -> list[int]:
    """Stop a deployment and wait until everything has ended; return the processes that a killed `up` had left.

    Raises NotRunning when nothing runs.
    """
    runtime = store.runtime()
    if is_running(store):
        holder = _holder(store)
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)
        deadline_s = time.monotonic() + DOWN_TIMEOUT_S
        while identity(holder):
            if time.monotonic() > deadline_s:
                raise NotRunning(f"process {holder} did not end within {DOWN_TIMEOUT_S:.0f} s of SIGTERM")
            time.sleep(0.05)
        return []
    if not store.object_file.exists():
        raise NotRunning(f"nothing runs in {store.directory}; start it: churn-serving local up FILE")
    ended = clear(runtime)
    store.remove()
    return ended


def is_running(store: LocalStore) -> bool:
    """Return whether a controller holds the deployment."""
    try:
        with _held(store):
            return False
    except AlreadyRunning:
        return True


@contextlib.contextmanager
def _held(store: LocalStore) -> Iterator[None]:
    store.directory.mkdir(parents=True, exist_ok=True)
    with (store.directory / "controller.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(_already(store)) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _holder(store: LocalStore) -> int:
    return int((store.directory / "controller.lock").read_text() or 0)


def _already(store: LocalStore) -> str:
    name = f"{store.directory.parent.name}/{store.directory.name}"
    return f"{name} runs already (process {_holder(store)}); stop it: churn-serving local down {name}"
