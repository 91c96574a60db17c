"""The peers' own virtual environments, made from their locks, and made again when a lock changes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.errors import MeasurementError

STAMP = ".lock-sha256"


def make_environments(root: Path, peers: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Install requirements/peers/<peer>.txt into var/peers/<peer>/venv. Raises MeasurementError."""
    for peer in peers:
        lock = root / "requirements" / "peers" / f"{peer}.txt"
        environment = root / "var" / "peers" / peer / "venv"
        wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
        stamp = environment / STAMP
        if stamp.exists() and stamp.read_text() == wanted:
            continue
        say(f"installing {peer} into {environment.relative_to(root)}")
        uv = str(Path(sys.executable).parent / "uv")
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)])
        _run([uv, "pip", "sync", "--quiet", "--require-hashes", str(lock)], VIRTUAL_ENV=str(environment))
        stamp.write_text(wanted)


def _run(command: Sequence[str], **environment: str) -> None:
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"{' '.join(command)} failed: {done.stderr.strip()}")
