"""Makes the pictures of the documentation from the running software: `make screenshots` (five minutes, chromium).

It runs version 1 on this machine, sends traffic, rolls version 2 out, and rolls back a version 3 that answers with
errors. Pages are taken with chromium, the terminal as SVG. It needs var/bundle and var/features.db of `make serve`.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WORK = ROOT / "var" / "screenshots"
PROGRAM = str(Path(sys.executable).with_name("churn-serving"))
COLUMNS, PAGE = 118, (1200, 1500)
STATE = ("--state", str(WORK / "state"))
LOCAL = ("--target", "local", *STATE)
URL = "http://127.0.0.1:8080/seldon/default/churn"
STEPS = ("--evidence", "scrape", "--min-duration", "12", "--min-requests", "200", "--bake", "8", "--interval", "2")


def terminal(name: str, *command: str) -> None:
    """Run a command on a terminal, and write what it shows as SVG."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "COLORTERM": "truecolor"}
    process = subprocess.Popen([PROGRAM, *command], cwd=ROOT, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other end is closed: the command has ended
        while chunk := os.read(ours, 65_536):
            shown += chunk
    os.close(ours)
    process.wait(60)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(Text.from_ansi(shown.decode(errors="replace").replace("\r", "")))
    drawn = console.export_svg(title=f"churn-serving {' '.join(command[:2])}")
    # Rich names a font of another site, which a picture must not wait for.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code, ", "")
    (PICTURES / f"{name}.svg").write_text(drawn)


def page(name: str, address: str, size: tuple[int, int] = PAGE) -> None:
    """Write a page as PNG."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: chromium is not installed; run: apt-get install chromium")
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000",
         f"--window-size={size[0]},{size[1]}", f"--user-data-dir={WORK / 'chromium'}",
         f"--screenshot={PICTURES / f'{name}.png'}", address],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip


def rollout(version: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a rollout of a version; its page is written below WORK."""
    command = [
        "rollout",
        "run",
        "churn",
        "--version",
        version,
        "--image",
        f"churn-serving:{version[1:]}",
        *LOCAL,
        *STEPS,
    ]
    return subprocess.Popen(
        [PROGRAM, *command, "--log", str(WORK / version), *options], cwd=ROOT, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> None:
    """Make every picture."""
    shutil.rmtree(WORK, ignore_errors=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    artifacts = [word for tag in (1, 2, 3) for word in ("--artifact", f"churn-serving:{tag}=var/bundle")]
    store = f"SERVING_FEATURE_STORE=sqlite:///{ROOT / 'var' / 'features.db'}"
    # Version 3 asks a store that is not there: its answers are errors.
    broken = ("--env", "v3:SERVING_STORE_TIMEOUT_MS=0.0001")
    up = ["local", "up", "seldon/base/seldondeployment.yaml", "--detach", "--timeout-s", "180", *STATE, *artifacts]
    subprocess.run([PROGRAM, *up, "--env", store, *broken], cwd=ROOT, check=True)
    load = subprocess.Popen(
        [PROGRAM, "load-test", "--url", URL, "--qps", "120", "--duration", "900", "--no-plot"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        good = rollout("v2")
        time.sleep(75)
        terminal("rollout-status", "rollout", "status", "churn", *LOCAL)
        good.wait(400)
        page("rollout-promoted", next((WORK / "v2").glob("*.html")).as_uri())
        rollout("v3").wait(400)
        page("rollout-rolled-back", next((WORK / "v3").glob("*.html")).as_uri())
    finally:
        load.terminate()
        load.wait(30)
        subprocess.run([PROGRAM, "local", "down", "default/churn", *STATE], cwd=ROOT, check=False)
    print(f"wrote {', '.join(sorted(file.name for file in PICTURES.iterdir()))} to {PICTURES}")


if __name__ == "__main__":
    main()
