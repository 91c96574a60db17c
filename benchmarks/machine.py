"""What was measured on, and which versions were measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "this project": (
        None,
        ("mlserver", "uvicorn", "uvloop", "httptools", "pydantic", "onnxruntime", "xgboost", "grpcio"),
    ),
    "FastAPI by hand, bare ASGI app": ("fastapi", ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "xgboost")),
    "BentoML": ("bentoml", ("bentoml", "uvicorn", "pydantic", "xgboost")),
    "KServe": ("kserve", ("kserve", "fastapi", "uvicorn", "pydantic", "xgboost")),
}


def machine_lines(root: Path) -> list[str]:
    """Return Markdown list items: processor, kernel, Python, commit, versions by server."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = re.search(r"model name\s*: (.+)", cpuinfo)
    meminfo = Path("/proc/meminfo").read_text()
    memory_gb = int(re.search(r"MemTotal:\s+(\d+)", meminfo).group(1)) * 1024 / 1e9  # type: ignore[union-attr]
    lines = [
        f"- processor: {found.group(1) if found else platform.processor()}, {os.cpu_count()} cores, {memory_gb:.0f} GB",
        f"- system: {platform.system()} {platform.release()}; Python {platform.python_version()}",
        f"- wrk: {_first_line('wrk', '-v')}; redis: {_first_line('redis-server', '--version')}",
        f"- commit: {_first_line('git', '-C', str(root), 'rev-parse', '--short', 'HEAD')}",
    ]
    for title, (peer, packages) in PACKAGES.items():
        lines.append(f"- {title}: {', '.join(_versions(root, peer, packages))}")
    return lines


def _versions(root: Path, peer: str | None, packages: tuple[str, ...]) -> list[str]:
    python = sys.executable if peer is None else str(root / "var" / "peers" / peer / "venv" / "bin" / "python")
    code = "import sys\nfrom importlib.metadata import version\nprint([f'{p} {version(p)}' for p in sys.argv[1:]])"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=False)
    return re.findall(r"'([^']+)'", done.stdout)


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return (done.stdout or done.stderr).strip().partition("\n")[0].partition(" Copyright")[0].partition(" sha=")[0]
