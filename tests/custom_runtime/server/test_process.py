"""The serving process before it serves: what it sets for itself."""

import subprocess
import sys

from tests.support.programs import GUARD_S, ROOT

# What a batch does: arrays of 0.4 MB that all end together, at the end of the heap.
BATCHES = """
import resource
import numpy as np
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


def test_a_batch_takes_its_pages_from_the_kernel_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BATCHES], cwd=ROOT, capture_output=True, text=True, check=True, timeout=GUARD_S
    )
    assert float(done.stdout) < 5  # page faults a batch; 500 without keep_freed_memory, one for each page
