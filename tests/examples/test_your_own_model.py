"""docs/your-own-model.md is run: every file is written and every command executed, in order, in an empty directory."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from local_seldon.ports import free_ports
from tests.support.programs import ROOT, program

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

DOCUMENT = (ROOT / "docs" / "your-own-model.md").read_text()
# A file's name stands in backquotes right before its block.
BLOCK = re.compile(r"(?:`(?P<file>[\w.]+)`:\n\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
COMMAND_LIMIT_S = 600.0
READY_LIMIT_S = 300.0


def shell(text: str, cwd: Path, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Run one block as a shell does; return what it printed, and the variables that it exported."""
    script = f"set -e\n{text}\nprintf '\\0'\nenv -0"
    done = subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=dict(environment), capture_output=True, text=True, check=False,
        timeout=COMMAND_LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    printed, _, exported = done.stdout.partition("\0")
    return printed, dict(line.partition("=")[::2] for line in exported.split("\0") if line)


@contextmanager
def running(text: str, cwd: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a block that serves, in the background; yield the log's text when it is ready."""
    log = cwd / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {text.strip()}"], cwd=cwd, env=dict(environment), stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_LIMIT_S
        url = f"http://127.0.0.1:{environment['MLSERVER_HTTP_PORT']}/v2/models/employees/ready"
        while not _is_ready(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def test_every_command_of_the_page_works_from_an_empty_directory(tmp_path: Path) -> None:
    program("curl")
    ports = free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SERVING_", "MLFLOW_"))}
    environment |= dict(
        zip(("MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT"), map(str, ports), strict=True)
    )
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MLSERVER_HOST": "127.0.0.1",
        "SERVING_DRAIN_DELAY_S": "0",
        "OMP_NUM_THREADS": "1",
    }
    blocks = [(match["file"], match["text"]) for match in BLOCK.finditer(DOCUMENT)]
    assert len(blocks) == 10
    printed: list[str] = []
    for place, (file, text) in enumerate(blocks):
        if file is not None:
            (tmp_path / file).write_text(text)
        elif "churn-serving serve" not in text and "curl" not in text:
            said, environment = shell(text, tmp_path, environment)
            printed.append(said)
        elif "curl" not in text:
            following = blocks[place + 1][1] if place + 1 < len(blocks) else ""
            with running(text, tmp_path, environment) as log:
                if "curl" in following:
                    address = f"http://localhost:{ports[0]}"
                    said, _ = shell(following.replace("http://localhost:8080", address), tmp_path, environment)
                    printed.append(said)
                else:
                    printed.append(log)
    everything = "\n".join(printed)
    for expected in (
        "wrote contract.py: employees, binary, 30 features",
        "models:/employees/1 is the champion (there was none)",
        "on 1,470 rows (allowed: 1e-05)",
        '"employee_id":42,"attrition_probability":0.',
        '"features":"store"',
        '"name":"employees"',
        "models:/employees/2 is the champion (before: models:/employees/1)",
    ):
        assert expected in everything, expected
    assert "imported models:/employees/2 (champion)" in printed[-1]  # the last block found a champion, and no stamp
