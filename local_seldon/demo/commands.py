"""The demo uses the project as a person does: by its commands. This runs them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_seldon.errors import DemoFailed

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. answer: the last line of its standard output, read as JSON where it is JSON."""

    code: int
    answer: Any
    output: str


async def script(
    name: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    heard: Callable[[str], None] = lambda line: None,
    allowed: tuple[int, ...] = (0,),
) -> Result:
    """Run scripts/<name>.py; `heard` gets each line of its standard error. Raises DemoFailed on any other exit code.

    A command that is still running when the demo is cancelled is told to end (SIGTERM) and waited for.
    """
    wide = {"COLUMNS": "240"}  # its lines are wrapped by our terminal, not by its idea of one
    process = await asyncio.create_subprocess_exec(
        sys.executable, f"scripts/{name}.py", *arguments, cwd=ROOT, env={**os.environ, **wide, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    lines: list[str] = []
    try:
        output, _ = await asyncio.gather(_read(process.stdout), _listen(process.stderr, lines, heard))
        code = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
        raise
    if code not in allowed:
        command = " ".join((f"scripts/{name}.py", *arguments))
        raise DemoFailed(f"{command}\nended with {code}; allowed: {allowed}\n{output}" + "\n".join(lines[-20:]))
    return Result(code, _parsed(output), output)


async def _read(stream: asyncio.StreamReader | None) -> str:
    return (await stream.read()).decode() if stream else ""


async def _listen(stream: asyncio.StreamReader | None, lines: list[str], heard: Callable[[str], None]) -> None:
    while stream and (line := await stream.readline()):
        lines.append(line.decode().rstrip())
        heard(lines[-1])


def _parsed(output: str) -> Any:
    for text in (output, output.strip().rpartition("\n")[2]):
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return None
