"""Proves that the ONNX graph scores as the registered model does, on every reference row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from custom_runtime.bundle import Parity
from custom_runtime.encoding import Matrix
from handoff.conversion import INPUT, OUTPUT, positive_column
from handoff.errors import ImportRefused

TOLERANCE = 1e-5
# Kernels take other paths for one row than for thousands, and one row is what most requests bring.
SINGLE_ROWS = 256

Scores = NDArray[np.float64]


def compare(onnx_graph: bytes, model: Any, rows: Matrix, *, tolerance: float = TOLERANCE) -> Parity:
    """Compare ONNX Runtime with the model's own `predict_proba` on rows float32 [n, WIDTH]; return what was measured.

    Raises ImportRefused, with the difference and the row, when any two probabilities differ by more than `tolerance`.
    """
    if not len(rows):
        raise ImportRefused("there are no reference rows to compare on; give some with --reference FILE")
    expected = np.asarray(model.predict_proba(rows)[:, positive_column(model)], dtype=np.float64)
    score = _scorer(onnx_graph)
    differences = _differences(score(rows), expected)
    sample = np.unique(np.linspace(0, len(rows) - 1, SINGLE_ROWS, dtype=np.int64))
    one_by_one = np.concatenate([score(rows[row : row + 1]) for row in sample])
    differences[sample] = np.maximum(differences[sample], _differences(one_by_one, expected[sample]))
    worst = int(differences.argmax())
    if differences[worst] > tolerance:
        count = int((differences > tolerance).sum())
        raise ImportRefused(
            f"ONNX and the registered model differ by {differences[worst]:.3g} on reference row {worst + 1} "
            f"(the model says {expected[worst]:.6f}), and by more than {tolerance:g} on {count} of {len(rows)} rows; "
            f"allowed: {tolerance:g}. Nothing was written"
        )
    return Parity(rows=len(rows), max_abs_difference=float(differences[worst]), tolerance=tolerance)


def _scorer(onnx_graph: bytes) -> Callable[[Matrix], Scores]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # as it is served
    try:
        session = onnxruntime.InferenceSession(onnx_graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ImportRefused(f"ONNX Runtime does not load the converted model: {error}") from error
    return lambda rows: session.run([OUTPUT], {INPUT: rows})[0][:, 0].astype(np.float64)


def _differences(scores: Scores, expected: Scores) -> Scores:
    differences: Scores = np.abs(scores - expected)
    # NaN would pass every comparison.
    differences[np.isnan(differences)] = np.inf
    return differences
