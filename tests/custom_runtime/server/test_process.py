"""The serving process before it serves: what it sets for itself."""

import subprocess
import sys

import pytest

from tests.support.programs import GUARD_S, ROOT

# What a batch does: arrays of 0.4 MB that all end together, at the end of the heap.
BATCHES = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from custom_runtime.server.process import keep_freed_memory
    keep_freed_memory()
def batch():
    arrays = [np.empty(50_000) for _ in range(5)]
    for array in arrays:
        array[:] = 1.0
for _ in range(10):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    batch()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 100)
"""


@pytest.mark.parametrize(("memory", "most", "fewest"), [("kept", 5, 0), ("as glibc does", 1e6, 300)])
def test_a_batch_takes_its_pages_from_the_kernel_once(memory: str, most: float, fewest: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BATCHES, memory],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=GUARD_S,
    )  # fmt: skip
    faults_per_batch = float(done.stdout)
    assert fewest <= faults_per_batch <= most
