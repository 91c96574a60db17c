"""Builds one ONNX graph, node by node: one float32 input (the packed feature rows), one float32 output.

Converted parts of other libraries are joined with `splice`, which renames what they define (`onnx.compose`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from handoff.errors import ImportRefused

INPUT = "features"
# The newest opsets that skl2onnx writes and every supported ONNX Runtime reads.
OPSET = 15
ML_OPSET = 3
ML_DOMAIN = "ai.onnx.ml"


class GraphBuilder:
    """An ONNX graph under construction. Methods return the names of the tensors that they add.

    precision: the type in which other libraries' converters compute ("float32" or "float64").
    """

    def __init__(self, width: int, *, precision: str = "float32") -> None:
        self.width = width
        self.precision = precision
        self.has_spliced_parts = False
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._number = 0

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        output = self._name(operator)
        node = helper.make_node(operator, list(inputs), [output], name=output, domain=domain, **attributes)
        self._nodes.append(node)
        return output

    def constant(self, values: NDArray[Any] | list[Any], dtype: Any) -> str:
        """Return the name of a constant tensor; equal constants are stored once."""
        array = np.ascontiguousarray(values, dtype=dtype).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._name("constant")
            self._initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def cast(self, tensor: str, dtype: Any) -> str:
        """Convert a tensor to another type."""
        return self.add("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def select(self, tensor: str, positions: list[int]) -> str:
        """Return columns of a matrix [n, m] by their positions."""
        return self.add("Gather", tensor, self.constant(positions, np.int64), axis=1)

    def splice(self, model: Any, source: str, output: str) -> str:
        """Join a converted model (one input) to `source`; return the tensor that was its output named `output`."""
        self.has_spliced_parts = True
        prefix = self._name("part") + "_"
        graph = compose.add_prefix_graph(model.graph, prefix)
        inner = graph.input[0].name
        for node in graph.node:
            node.input[:] = [source if name == inner else name for name in node.input]
        self._nodes.extend(graph.node)
        self._initializers.extend(graph.initializer)
        return prefix + output

    def build(self, tensor: str, output: str, columns: int) -> bytes:
        """Finish the graph: `tensor` [n, columns] becomes the float32 output. Returns the serialized, checked model."""
        self._nodes.append(
            helper.make_node("Cast", [tensor], [output], name=f"{output}_as_float32", to=TensorProto.FLOAT)
        )
        graph = helper.make_graph(
            self._needed(output),
            "model",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, self.width])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, columns])],
        )
        needed = {name for node in graph.node for name in node.input}
        graph.initializer.extend(tensor for tensor in self._initializers if tensor.name in needed)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="handoff")
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise ImportRefused(f"the converted model is no valid ONNX graph: {error}") from error
        return bytes(model.SerializeToString())

    def _needed(self, output: str) -> list[Any]:
        """Return the nodes that the output needs, in topological order."""
        needed, kept = {output}, []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                kept.append(node)
        return kept[::-1]

    def _name(self, stem: str) -> str:
        self._number += 1
        return f"{stem.lower()}_{self._number}"


def output_names(model: Any) -> Mapping[str, int]:
    """Return a converted model's outputs: name -> element type."""
    return {output.name: output.type.tensor_type.elem_type for output in model.graph.output}
