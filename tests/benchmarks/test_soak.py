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
    result.samples = [Sample(float(second), 200.0, 40) for second in range(50)]
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


def test_a_grpc_call_that_is_cut_needs_a_worker_that_ended() -> None:
    result = healthy()
    result.outcomes[3] = Outcome("v2_grpc", 0.0, 1.0, "lost CANCELLED: CANCELLED", None)
    assert result.complaints == ["1 gRPC calls were cut by a server that stopped; allowed: 0"]
    result.faults = [Fault("workers rolled", 1.0, 2.0)]
    assert result.complaints == []


def test_a_leak_of_memory_or_files_is_complained_of() -> None:
    result = healthy()
    result.samples = [Sample(float(second), 200.0 + 2 * second, 40 + second) for second in range(50)]
    assert result.complaints == [
        "a worker grew by 60 MB; allowed: 40",
        "a worker keeps 30 files more than before; allowed: 8",
    ]


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
