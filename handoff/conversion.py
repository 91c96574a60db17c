"""A fitted classifier -> an ONNX graph with one input and one output, ready to serve.

    features float32 [n, WIDTH]  ->  churn_probability float32 [n, 1]

What the converters add besides (labels, the other class) is pruned, so that serving computes one thing.

Proves that the ONNX graph scores as the registered model does, on every reference row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as TreeInput
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType as SklearnInput
from xgboost import XGBClassifier

from custom_runtime.contract import PROBABILITY
from custom_runtime.model.bundle import Parity
from custom_runtime.model.encoding import WIDTH, Matrix
from handoff.columns import LABELS
from handoff.errors import ImportRefused

INPUT = "features"
OUTPUT = PROBABILITY
# The newest opset that onnxmltools' tree converter and skl2onnx both write (2026).
OPSET = 15
TOLERANCE = 1e-5
# Kernels take other paths for one row than for thousands, and one row is what most requests bring.
SINGLE_ROWS = 256
Scores = NDArray[np.float64]


def positive_column(model: Any) -> int:
    """Return which column of `predict_proba` is the positive class. Raises ImportRefused when there is none."""
    classes = getattr(model, "classes_", None)
    if not hasattr(model, "predict_proba") or classes is None:
        raise ImportRefused(f"the model is a {type(model).__name__}; wanted: a classifier with predict_proba")
    meanings = [LABELS.get(str(label)) for label in classes]
    if sorted(meanings, key=str) != [0, 1]:
        raise ImportRefused(f"the model tells the classes {list(classes)} apart; wanted: the two of the contract")
    return meanings.index(1)


def convert(model: Any) -> bytes:
    """Convert a fitted XGBClassifier or scikit-learn classifier to ONNX. Raises ImportRefused when that fails."""
    column = positive_column(model)
    try:
        if isinstance(model, XGBClassifier):
            graph = convert_xgboost(model, initial_types=[(INPUT, TreeInput([None, WIDTH]))], target_opset=OPSET)
        else:
            inputs = [(INPUT, SklearnInput([None, WIDTH]))]
            graph = to_onnx(model, initial_types=inputs, options={"zipmap": False}, target_opset=OPSET)
    except Exception as error:  # the converters raise whatever they meet, bare RuntimeError and KeyError included
        raise ImportRefused(f"{type(model).__name__} does not convert to ONNX: {error}") from error
    served = _keep_probability(graph, column)
    onnx.checker.check_model(served)
    return bytes(served.SerializeToString())


def _keep_probability(model: Any, column: int) -> Any:
    graph = model.graph
    floats = [output.name for output in graph.output if output.type.tensor_type.elem_type == TensorProto.FLOAT]
    if len(floats) != 1:
        raise ImportRefused(f"the ONNX graph has {len(floats)} float outputs ({floats}); wanted: the probabilities")
    if not any(imported.domain == "" for imported in model.opset_import):  # trees alone need only ai.onnx.ml
        model.opset_import.append(helper.make_opsetid("", OPSET))
    graph.initializer.append(helper.make_tensor("positive_class", TensorProto.INT64, [1], [column]))
    graph.node.append(helper.make_node("Gather", [floats[0], "positive_class"], [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1]))
    _prune(graph)
    return model


def _prune(graph: Any) -> None:
    """Drop the nodes and constants that no output needs; nodes stand in topological order."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for constant in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(constant)


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
