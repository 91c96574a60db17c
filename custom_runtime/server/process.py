"""One serving process: event loop, log format, the banner at the start, the exit code.

Logged tracebacks have the frames and the class of an exception, never its message: messages often quote a value, and
that may be a person's data.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

import uvloop
from mlserver.settings import Settings
from pydantic import ValidationError

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StartupError
from custom_runtime.server.logs import configure_logs
from custom_runtime.server.server import serve
from custom_runtime.settings import ServingSettings, one_line

# Set by the supervisor: a file descriptor to write to once every port answers.
READY_FD = "SERVING_READY_FD"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# What glibc keeps of freed memory, and from which size on a block is the kernel's again as soon as it is freed. By
# default both follow what was freed last: where the arrays of a batch happen to lie at the heap's end, every batch
# gives their pages back and takes them again, and half of the core goes into that.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 32 * 1024 * 1024, 4 * 1024 * 1024
# How long a worker thread (wide batches, records, explanations) may keep the interpreter's lock while the event loop
# waits for it. A request gives it up for each system call, and with Python's 5 ms waits as long each time.
_SWITCH_INTERVAL_S = 0.0002


def run(folder: Path) -> int:
    """Serve the models below `folder` until a signal; return the exit code."""
    configure_logs()
    _raise_file_limit()
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    if READY_FD in os.environ:
        # A supervisor that was killed cannot drain its workers: the kernel sends them the signal.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(folder, ServingSettings(), _announce))
    except (StartupError, ValidationError) as error:
        print(f"churn-serving cannot start: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _raise_file_limit() -> None:
    # The usual soft limit of 1,024 is for programs that use select(): here every connection is a file.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_freed_memory() -> None:
    """Have glibc keep what a batch frees for the next one; another C library is left as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _announce(settings: Settings) -> None:
    ready_fd = os.environ.get(READY_FD)
    if ready_fd is not None:  # one of several workers
        os.write(int(ready_fd), b"ready")
        return
    print(banner(settings), flush=True)


def banner(settings: Settings) -> str:
    """Return the lines that show the service's addresses and an example request."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    key = CONTRACT.key_field
    example = (
        {feature.name: feature.example for feature in CONTRACT.features} if key is None else {key.name: key.example}
    )
    serving = ServingSettings()
    rest = f"{'https' if serving.tls_cert else 'http'}://{host}:{settings.http_port}"
    token = ' -H "Authorization: Bearer $SERVING_TOKEN"' if serving.token or serving.token_file else ""
    return (
        f"REST     {rest}  (docs: {rest}/docs)\n"
        f"gRPC     {host}:{settings.grpc_port}\n"
        f"metrics  http://{host}:{settings.metrics_port}{settings.metrics_endpoint or ''}\n"
        f"try:     curl -s{token} {rest}/predict -d '{json.dumps(example)}'"
    )
