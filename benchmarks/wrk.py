"""The closed loop over REST: Debian's wrk, every connection asking again as soon as it has its answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.errors import MeasurementError
from benchmarks.target import Target

SCRIPT = Path(__file__).resolve().parent / "wrk_bodies.lua"
CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Answers per second, and the latency of a connection that is never idle."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


def run_wrk(target: Target, path: str, bodies: Sequence[bytes], *, duration_s: float, cpu: int) -> ClosedLoop:
    """Run wrk with one thread on one core. Raises MeasurementError when one answer was not a 200, or none came."""
    with TemporaryDirectory(prefix="wrk-") as directory:
        file = Path(directory) / "bodies"
        file.write_bytes(b"\n".join(bodies) + b"\n")
        url = f"http://{target.authority}{path}"
        command = ["taskset", "-c", str(cpu), *wrk_arguments(duration_s), "-s", str(SCRIPT), url, "--", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=duration_s + 30, check=False)
        except FileNotFoundError as error:
            raise MeasurementError("wrk or taskset is missing; install them: apt-get install wrk util-linux") from error
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"wrk did not end; {url} does not answer") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise MeasurementError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    figures = json.loads(lines[-1])
    failed = {kind: count for kind, count in figures["errors"].items() if count}
    if failed or not figures["requests"]:
        raise MeasurementError(f"{figures['requests']} answers, errors: {failed or 'no answer at all'}")
    return ClosedLoop(
        requests_per_s=figures["requests"] / figures["duration_us"] * 1e6,
        p50_ms=figures["p50_us"] / 1e3,
        p99_ms=figures["p99_us"] / 1e3,
    )


def wrk_arguments(duration_s: float) -> list[str]:
    """Return wrk's command line without script, URL and bodies, also for the report."""
    return ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(duration_s))}s", "--latency"]
