"""The soak test itself: a short one on the real service, and that it notices what it is there to notice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import Fault, Sample, SoakResult
from benchmarks.traffic import Outcome
from tests.programs import program
from tests.serving import ROOT, World


def healthy() -> SoakResult:
    result = SoakResult(sent=10)
    result.outcomes = [Outcome("predict", 0.0, 1.0, "200", None) for _ in range(10)]
    result.samples = [Sample(float(second), 200.0, 40, 9) for second in range(50)]
    return result


def test_a_run_that_lost_nothing_and_kept_its_size_is_good() -> None:
    assert healthy().complaints == []


def test_what_is_lost_unaccounted_for_or_still_in_flight_is_complained_of() -> None:
    result = healthy()
    result.outcomes[3] = Outcome("predict", 0.0, 1.0, "lost ConnectionResetError", None)
    result.sent, result.inflight_at_end = 12, 1
    assert result.complaints == [
        "12 requests were sent, 10 are accounted for",
        "1 x lost ConnectionResetError",
        "1 requests are still in flight; allowed: 0",
    ]


def test_a_leak_of_memory_files_or_tasks_is_complained_of() -> None:
    result = healthy()
    result.samples = [Sample(second, 200.0 + second, 40 + second, 9 + second) for second in range(100)]
    assert result.complaints == [
        "a worker grew by 56 MB; allowed: 15",
        "a worker grew by 56 files; allowed: 8",
        "a worker grew by 56 tasks; allowed: 8",
    ]


def test_growth_counts_from_when_the_workers_of_the_last_roll_have_settled() -> None:
    result = healthy()
    result.faults = [Fault("workers rolled", 20.0, 30.0), Fault("workers rolled", 50.0, 60.0)]
    filling = [Sample(second, 150.0 + second, 40, 9) for second in range(90)]
    result.samples = filling + [Sample(second, 240.0, 40, 9) for second in range(90, 200)]
    assert result.complaints == []
    result.samples = filling + [Sample(second, 60.0 + 2 * second, 40, 9) for second in range(90, 200)]
    assert result.complaints == ["a worker grew by 176 MB; allowed: 15"]


def test_a_run_too_short_to_settle_may_fill_its_pools() -> None:
    result = healthy()
    result.faults = [Fault("workers rolled", 2.0, 12.0)]
    result.samples = [Sample(second, 200.0 + 2 * second, 40, 9) for second in range(22)]
    assert result.growth.allowed_mb == 40
    assert result.complaints == []


@pytest.mark.slow
@pytest.mark.integration
def test_a_short_soak_loses_nothing(world: World, tmp_path: Path) -> None:
    program("redis-server")
    done = subprocess.run(
        [
            sys.executable, "scripts/soak.py", "--seconds", "22", "--qps", "150",
            "--bundle", str(world.bundle), "--directory", str(tmp_path),
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
