"""The soak test itself: a short one on the real service."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT, program
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
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["complaints"] == [], report
    assert report["sent"] == sum(report["results"].values())
    assert report["sent"] > 20 * 150
    assert {fault["kind"] for fault in report["faults"]} <= {"store killed", "store paused", "workers rolled"}
    assert len(report["faults"]) >= 2
    assert (tmp_path / "soak.png").stat().st_size > 10_000
