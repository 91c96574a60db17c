"""Proves that a converted model answers as the registered one does on every reference row, and measures its cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from custom_runtime.model.bundle import Parity
from custom_runtime.model.encoding import WIDTH
from custom_runtime.model.forest import BitForest, ForestScorer
from handoff.conversion.columns import Floats
from handoff.conversion.graph import INPUT
from handoff.errors import ImportRefused

TOLERANCE = 1e-5
# Kernels use different code for one row than for thousands, and most requests have one row.
SINGLE_ROWS = 256
# How often a batch is scored to measure its cost, by its size: about 50 ms each.
REPETITIONS: Mapping[int, int] = {1: 500, 16: 200, 1000: 5}
MOST_MEASURED_ROWS = 10_000

Score = Callable[[NDArray[np.float32]], Floats]


def compare(
    model: bytes | BitForest,
    expected: Floats,
    rows: NDArray[np.float32],
    *,
    tolerance: float = TOLERANCE,
    relative: bool = False,
) -> Parity:
    """Compare what is served with the model's own answers [n, outputs] on rows float32 [n, WIDTH].

    model: an ONNX graph, or a forest of bit vectors.

    relative: for a regression. The answer of 200,000 has a unit of float32 of 0.016, and one of 0.001 would be wrong by
    1 % at an absolute 1e-5. So each difference is divided by the answer's size, or by the standard deviation of all
    answers where that is greater: near zero, a difference of two large sums has no more digits than they have.
    Raises ImportRefused, with the difference and the row, when any two differ by more than `tolerance`.
    """
    if not len(rows):
        raise ImportRefused("there are no reference rows to compare on; give some with --reference FILE")
    score = scorer(model)
    answers = score(rows)
    scale = _scale(expected) if relative else np.ones_like(expected)
    if answers.shape != expected.shape:
        raise ImportRefused(f"the converted model answers {answers.shape[1]} columns, the model {expected.shape[1]}")
    differences = _differences(answers, expected, scale)
    sample = np.unique(np.linspace(0, len(rows) - 1, SINGLE_ROWS, dtype=np.int64))
    one_by_one = np.concatenate([score(rows[row : row + 1]) for row in sample])
    differences[sample] = np.maximum(differences[sample], _differences(one_by_one, expected[sample], scale[sample]))
    worst = int(differences.argmax())
    if differences[worst] > tolerance:
        count = int((differences > tolerance).sum())
        unit = " of the value" if relative else ""
        name = "the bit vectors" if isinstance(model, BitForest) else "ONNX"
        said = ", ".join(f"{value:.6g}" for value in expected[worst])
        raise ImportRefused(
            f"{name} and the registered model differ by {differences[worst]:.3g}{unit} on reference row {worst + 1} "
            f"(the model says {said}), and by more than {tolerance:g}{unit} on {count} of {len(rows)} rows; "
            f"allowed: {tolerance:g}{unit}. Nothing was written"
        )
    return Parity(len(rows), float(differences[worst]), tolerance, relative)


def costs_us(
    models: Mapping[str, bytes | BitForest], rows: NDArray[np.float32], sizes: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Measure models beside each other, in turns: name -> batch size -> median microseconds of one call.

    Each call scores other rows: a processor learns the way of a row through the trees, and customers differ.
    """
    scorers = {name: scorer(model) for name, model in models.items()}
    costs: dict[str, dict[int, float]] = {name: {} for name in models}
    for size in sizes:
        repetitions = REPETITIONS.get(size, 20)
        several = np.resize(rows, (min(repetitions, max(1, MOST_MEASURED_ROWS // size)), size, rows.shape[1]))
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for repetition in range(repetitions):
            batch = several[repetition % len(several)]
            for name, score in scorers.items():
                started = time.perf_counter()
                score(batch)
                seconds[name].append(time.perf_counter() - started)
        for name in models:
            costs[name][size] = round(float(np.median(seconds[name])) * 1e6, 1)
    return costs


def scorer(model: bytes | BitForest) -> Score:
    """Open an ONNX graph or a forest as it is served: on the calling thread."""
    if isinstance(model, BitForest):
        score_forest = ForestScorer(model, WIDTH).score
        return lambda rows: score_forest(rows).astype(np.float64)[:, None]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        raise ImportRefused(f"ONNX Runtime does not load the converted model: {error}") from error
    return lambda rows: np.asarray(session.run(None, {INPUT: rows})[0], dtype=np.float64)


def _scale(expected: Floats) -> Floats:
    """Return what a difference of each value is a fraction of, float64 [n, outputs]; one where all values are zero."""
    scale: Floats = np.maximum(np.abs(expected), expected.std(axis=0))
    scale[scale == 0] = 1.0
    return scale


def _differences(answers: Floats, expected: Floats, scale: Floats) -> Floats:
    """Return the greatest difference of each row as a fraction of its scale, float64 [n]."""
    differences: Floats = (np.abs(answers - expected) / scale).max(axis=1)
    # NaN would pass every comparison.
    differences[np.isnan(differences)] = np.inf
    return differences
