"""The soak test itself: a short one on the real service."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.leftovers import descendants
from tests.support.programs import GUARD_S, ROOT, eventually, program
from tests.support.serving import World


@pytest.mark.slow
@pytest.mark.integration
def test_a_short_soak_loses_nothing(world: World, tmp_path: Path) -> None:
    program("redis-server")
    done = subprocess.run(
        [
            sys.executable, "scripts/soak.py", "--seconds", "22", "--qps", "150",
            "--bundle", str(world.bundle), "--directory", str(tmp_path), "-o", "json",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["complaints"] == [], report
    assert report["sent"] == sum(report["results"].values())
    assert report["sent"] > 20 * 150
    assert {fault["kind"] for fault in report["faults"]} <= {"store killed", "store paused", "workers rolled"}
    assert len(report["faults"]) >= 2
    assert (tmp_path / "soak.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_soak_with_all_that_it_started(world: World, tmp_path: Path, number: signal.Signals) -> None:
    program("redis-server")
    process = subprocess.Popen(
        [
            sys.executable, "scripts/soak.py", "--seconds", "60", "--qps", "20",
            "--bundle", str(world.bundle), "--directory", str(tmp_path),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        started = eventually(lambda: descendants(process.pid), lambda found: len(found) >= 3, every_s=0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=GUARD_S)
    finally:
        process.kill()
    assert (process.returncode, out, "Traceback" in err) == (128 + number, "", False), err
    assert err.split()[-1] == "interrupted"
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
