"""Where the time goes: py-spy samples this project's server while wrk keeps it busy."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.compare.closed_loop import run_wrk
from benchmarks.compare.server import CLIENT_CPU, SERVER_CPU, RunningServer, Server
from benchmarks.errors import MeasurementError

RATE_HZ = 250
ROWS = 15


def profile(server: Server, *, duration_s: float, logs: Path) -> list[str]:
    """Return a Markdown table of the functions with the most own time, including the C functions that they call."""
    query = server.queries["predict"]
    with RunningServer(server, cpu=SERVER_CPU, log=logs / "profile.log") as running, ThreadPoolExecutor() as pool:
        target = running.target(query)
        loaded = pool.submit(run_wrk, target, query.path, query.bodies, duration_s=duration_s + 2, cpu=CLIENT_CPU)
        shares = _sample(running.pid, duration_s)
        loaded.result()
    lines = [
        f"Share of {sum(shares.values()):,} samples by function; time in C counts for the Python that calls it "
        "(`Runner.run`: the event loop itself).",
        "",
    ]
    lines += ["| function | share |", "|---|---|"]
    total = sum(shares.values())
    lines += [f"| `{name}` | {count / total:.1%} |" for name, count in shares.most_common(ROWS)]
    return lines


def _sample(pid: int, duration_s: float) -> Counter[str]:
    """Sample stacks without pausing the process, and count their innermost frames. Raises MeasurementError."""
    with TemporaryDirectory(prefix="profile-") as directory:
        output = Path(directory) / "stacks"
        command = [
            *(str(Path(sys.executable).parent / "py-spy"), "record", "--pid", str(pid), "--nonblocking"),
            *("--rate", str(RATE_HZ), "--duration", f"{duration_s:.0f}", "--format", "raw", "--output", str(output)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration_s + 60, check=False)
        if done.returncode or not output.exists():
            raise MeasurementError(f"py-spy failed: {done.stderr.strip()}")
        shares: Counter[str] = Counter()
        for line in output.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            frame = stack.rpartition(";")[2]
            if frame:
                shares[_function(frame)] += int(count)
    if not shares:
        raise MeasurementError("py-spy took no sample")
    return shares


def _function(frame: str) -> str:
    """Turn "name (path/to/file.py:12)" into "name (to/file.py)"."""
    name, _, place = frame.partition(" (")
    parts = place.rstrip(")").rpartition(":")[0].split("/")
    return f"{name} ({'/'.join(parts[-2:])})"
