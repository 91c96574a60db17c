"""A process that writes one record with each flush, and is killed: `python killed_record_writer.py DIRECTORY FLUSHES`.

It imports nothing of `tests`: a package of that name in site-packages would be found first.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from custom_runtime.metrics import ServingMetrics
from custom_runtime.model.encoding import WIDTH
from custom_runtime.prediction.query import REQUEST, Prediction, Query
from custom_runtime.records.record import RecordBuilder, RecordOptions, ScoredBatch, take_rows
from custom_runtime.records.segments import SegmentLimits, SegmentSink


def main(directory: Path, flushes: int) -> None:
    now = 0.0
    metrics = ServingMetrics(model="churn", version="7", predictor="killed", store="memory")
    sink = SegmentSink(directory, SegmentLimits(flush_s=1.0), metrics, clock=lambda: now)
    builder = RecordBuilder(RecordOptions("churn", "v7", "7", key_mode="plain"))
    rows = np.zeros((1, WIDTH), dtype=np.float32)
    for key in range(flushes + 1):
        batch = ScoredBatch(now, [Query((key,), {})], rows, [Prediction([0.5], [REQUEST])], None)
        sink.write(builder.build(builder.sample([take_rows(batch)])))
        if key < flushes:  # the last one is never flushed
            now += 1.0
            sink.tick()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
