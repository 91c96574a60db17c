"""A graph that does not answer what the contract predicts is refused when it is opened."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from custom_runtime.active import CONTRACT
from custom_runtime.errors import BundleError
from custom_runtime.model.encoding import WIDTH
from custom_runtime.model.scoring import OnnxScorer


def graph_of(columns: int, path: Path) -> Path:
    """A graph that answers the first `columns` features."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["features", "chosen"], ["answer"], axis=1)],
        "first_columns",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.arange(columns), "chosen")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_graph_of_the_contracts_columns_is_served(tmp_path: Path) -> None:
    rows = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
    assert OnnxScorer(graph_of(CONTRACT.columns, tmp_path / "m.onnx")).score(rows).tolist() == [0.0, float(WIDTH)]


@pytest.mark.parametrize("columns", [2, 3])
def test_a_graph_with_more_classes_is_not_served_by_its_last_column(tmp_path: Path, columns: int) -> None:
    with pytest.raises(BundleError, match=rf"answers \[1, {columns}\] for one row, the contract 'churn' has 1 column;"):
        OnnxScorer(graph_of(columns, tmp_path / "m.onnx"))
