"""The harness itself, on this project and the bare ASGI app: that it works, never how fast."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare.queries import check_agreement
from benchmarks.errors import MeasurementError
from tests.support.programs import GUARD_S, ROOT, program
from tests.support.serving import World

# In a process of its own: the harness reads gRPC answers with MLServer's generated code, other tests use another.
HARNESS = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from benchmarks.compare import servers
from benchmarks.compare.inputs import read_inputs
from benchmarks.compare.measurement import QUICK
from benchmarks.errors import BenchmarkError
from benchmarks.compare.comparison import run_rounds
root, bundle, store, directory, wrong = sys.argv[1:]
inputs = read_inputs(Path(bundle), store, Path(directory))
project = servers.project(Path(root), inputs)
bare = servers.bare(Path(root), inputs)
bare = replace(bare, command=(sys.executable, "-m", "uvicorn", *bare.command[1:]))
# Wide limits: on a busy machine the service would rightly refuse what it cannot answer in time.
patient = {"SERVING_DEADLINE_MS": "20000", "SERVING_STORE_TIMEOUT_MS": "20000"}
served = {"SERVING_BUNDLE": bundle, "SERVING_FEATURE_STORE": store}
project = replace(project, environment={**project.environment, **served, **patient})
compared = [bare, project]
if wrong:
    compared.remove(bare)
    inputs = replace(inputs, rows=inputs.rows[::-1])
try:
    measured = run_rounds(compared, inputs, QUICK, Path(directory), say=lambda line: None)
except BenchmarkError as error:
    sys.exit(str(error))
print(json.dumps({"values": measured.values, "difference": measured.largest_difference}))
"""


def harness(world: World, directory: Path, *, wrong: bool = False) -> "subprocess.CompletedProcess[str]":
    program("wrk")
    arguments = [str(ROOT), str(world.bundle), world.store, str(directory), "wrong" if wrong else ""]
    command = [sys.executable, "-c", HARNESS, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=GUARD_S)


@pytest.mark.integration
@pytest.mark.slow
def test_a_quick_round_measures_everything_without_an_error(world: World, tmp_path: Path) -> None:
    done = harness(world, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["values"]["project"].keys() >= {
        "predict_per_s",
        "v2_rest_per_s",
        "v2_grpc_per_s",
        "startup_s",
        "resident_mb",
    }
    assert all(value > 0 for server in found["values"].values() for rounds in server.values() for value in rounds)
    assert found["difference"]["project"] <= 1e-5


@pytest.mark.integration
@pytest.mark.slow
def test_nothing_is_measured_when_answers_differ(world: World, tmp_path: Path) -> None:
    done = harness(world, tmp_path, wrong=True)
    assert done.returncode == 1
    assert "disagrees" in done.stderr


def test_a_difference_beyond_the_tolerance_is_named() -> None:
    reference = np.linspace(0, 1, 25).tolist()
    assert check_agreement("x", reference, reference) == 0
    with pytest.raises(MeasurementError, match="the peer disagrees by 2e-05"):
        check_agreement("the peer", [*reference[:-1], 1.00002], reference)


def test_a_constant_is_not_compared() -> None:
    assert check_agreement("bare", [float("nan")] * 2, [0.1, 0.2]) == 0
