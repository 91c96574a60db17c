"""A fitted classifier -> an ONNX graph with one input and one output, ready to serve.

    features float32 [n, WIDTH]  ->  churn_probability float32 [n, 1]

What the converters add besides (labels, the other class) is pruned, so that serving computes one thing.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto, helper
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as TreeInput
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType as SklearnInput
from xgboost import XGBClassifier

from custom_runtime.contract import NAME
from custom_runtime.encoding import WIDTH
from handoff.cells import LABELS
from handoff.errors import ImportRefused

INPUT = "features"
OUTPUT = f"{NAME}_probability"
# The newest opset that onnxmltools' tree converter and skl2onnx both write (2026).
OPSET = 15


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
