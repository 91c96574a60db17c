"""The demo as a real process that a signal ends: nothing of what it started is left, whenever the signal comes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.leftovers import begun, processes_of
from tests.support.programs import GUARD_S, eventually
from tests.support.serving import World

PROGRAM = str(Path(sys.executable).parent / "churn-serving")
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]


@contextmanager
def demo(world: World, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with models and features that are there already."""
    for name in ("1", "2", "3", "challenger"):
        shutil.copytree(world.bundle, directory / f"bundle-{name}")
    manifest = directory / "bundle-challenger" / "bundle.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"version": "8"})
    )  # another one than the champion's
    (directory / "mlflow.db").touch()  # without the registry that numbered them, the demo makes its models again
    shutil.copyfile(world.store.removeprefix("sqlite:///"), directory / "features.db")
    with begun([PROGRAM, "demo", "--directory", str(directory), "--rate", "50"], directory) as process:
        yield process


def wait_for(directory: Path, words: str) -> None:
    """Wait for a process that the demo has started."""
    eventually(
        lambda: any(words in command for command in processes_of(directory).values()),
        bool, every_s=0.02,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGTERM, "seldon_local.py up", id="SIGTERM while the deployment starts"),
        pytest.param(signal.SIGINT, "canary_promote.py run churn --version v2", id="Ctrl-C in a rollout"),
    ],
)
def test_a_signal_leaves_no_process(world: World, tmp_path: Path, number: signal.Signals, moment: str) -> None:
    with demo(world, tmp_path) as process:
        wait_for(tmp_path, moment)
        process.send_signal(number)
        process.send_signal(number)  # somebody who is impatient
        code = process.wait(GUARD_S)
        said = (tmp_path / "output").read_text()
        assert (code, "Traceback" in said) == (128 + number, False), said
        assert processes_of(tmp_path) == {}, said
        assert "nothing runs any more" in said
