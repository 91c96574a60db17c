"""Trees as bit vectors answer as ONNX Runtime does on the graph that they were read from, or are left to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from custom_runtime.errors import BundleError
from custom_runtime.model import scoring
from custom_runtime.model.encoding import WIDTH
from custom_runtime.model.forest import BitForest, ForestScorer
from handoff.conversion.bits import bit_forest
from handoff.conversion.graph import ML_DOMAIN, GraphBuilder
from handoff.conversion.parity import compare, scorer
from handoff.dataset import Dataset
from handoff.errors import ImportRefused
from tests.support.model_kinds import KINDS, converted, fit

Matrix = NDArray[np.float32]
# Few values, so that rows meet thresholds exactly.
NUMBERS = [-np.inf, -1.5, -0.0, 0.0, 1e-38, 0.1, 1.0, 2.0, 7.25, 3e38, np.inf]
Split = tuple[int, float, bool, Any, Any]  # feature, threshold, where NaN goes, left, right


def trees_of(depth: int) -> st.SearchStrategy[Any]:
    leaf = st.floats(-1, 1, width=32)
    if not depth:
        return leaf
    below = trees_of(depth - 1)
    thresholds = st.sampled_from([number for number in NUMBERS if np.isfinite(number)])
    return st.one_of(leaf, st.tuples(st.integers(0, WIDTH - 1), thresholds, st.booleans(), below, below))


def graph_of(trees: Sequence[Any], *, link: str = "Sigmoid", nullable: bool = True, targets: int = 1) -> bytes:
    """Write trees as the converter does."""
    nodes: list[list[Any]] = []
    leaves: list[tuple[int, int, int, float]] = []

    def write(tree: Any, number: int, start: int) -> int:
        place = len(nodes)
        if not isinstance(tree, tuple):
            nodes.append([number, place - start, 0, "LEAF", 0.0, 0, 0, 0])
            leaves.append((number, place - start, 0, float(tree)))
            return place - start
        feature, threshold, missing_left, left, right = tree
        nodes.append([number, place - start, feature, "BRANCH_LEQ", threshold, 0, 0, int(missing_left)])
        below = write(right, number, start)
        nodes[place][5:7] = [write(left, number, start), below]
        return place - start

    for number, tree in enumerate(trees):
        write(tree, number, len(nodes))
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    attributes: dict[str, Any] = {f"nodes_{name}": [node[place] for node in nodes] for place, name in enumerate(names)}
    if nullable:
        attributes["nodes_missing_value_tracks_true"] = [node[7] for node in nodes]
    for place, name in enumerate(("treeids", "nodeids", "ids", "weights")):
        attributes[f"target_{name}"] = [leaf[place] for leaf in leaves]
    graph = GraphBuilder(WIDTH)
    base = [-0.25] * targets
    answer = graph.add(
        "TreeEnsembleRegressor", "features", domain=ML_DOMAIN, n_targets=targets, base_values=base, **attributes
    )
    return graph.build(graph.add(link, answer) if link else answer, "answer", targets)


def forest_of(onnx_graph: bytes) -> BitForest:
    forest = bit_forest(onnx_graph)
    assert forest is not None
    return BitForest.load(forest.dump())


def rows_of(numbers: Sequence[float], seed: int, count: int = 60) -> Matrix:
    return np.random.default_rng(seed).choice(np.array(numbers, dtype=np.float32), size=(count, WIDTH))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(trees_of(4), min_size=1, max_size=8),
    st.sampled_from(["Sigmoid", "Exp", ""]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_trees_answer_as_onnx_runtime_does(trees: list[Any], link: str, nullable: bool, seed: int) -> None:
    onnx_graph = graph_of(trees, link=link, nullable=nullable)
    # Without tracks for missing values ONNX Runtime promises nothing for NaN, and the contract lets none in.
    rows = rows_of([*NUMBERS, np.nan] if nullable else NUMBERS, seed)
    answers = ForestScorer(forest_of(onnx_graph), WIDTH).score(rows)
    np.testing.assert_allclose(answers, scorer(onnx_graph)(rows)[:, 0], rtol=2e-6, atol=2e-6)


def test_a_rows_score_is_the_same_alone_in_a_batch_and_in_a_block() -> None:
    random = np.random.default_rng(3)

    def tree(depth: int) -> Any:
        if not depth:
            return float(random.normal())
        return (int(random.integers(WIDTH)), float(random.normal()), bool(depth % 2), tree(depth - 1), tree(depth - 1))

    forest = ForestScorer(forest_of(graph_of([tree(6) for _ in range(100)])), WIDTH)
    rows = random.normal(size=(3000, WIDTH)).astype(np.float32)
    rows[::7, ::3] = np.nan
    assert len(rows) > 3 * forest._block_rows
    whole = forest.score(rows)
    assert (whole[:16] == forest.score(rows[:16])).all()
    assert [forest.score(rows[row : row + 1])[0] for row in range(50)] == whole[:50].tolist()


def test_margins_that_overflow_an_exponential_are_certain_probabilities_without_a_warning() -> None:
    forest = ForestScorer(forest_of(graph_of([(0, 0.0, True, -500.0, 500.0)])), WIDTH)
    rows = np.array([[-1] * WIDTH, [1] * WIDTH], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        low, high = forest.score(rows)
    assert 0 <= low < 1e-37
    assert high == 1


def chain(leaves: int) -> Any:
    tree: Any = 0.0
    for number in range(leaves - 1):
        tree = (number % WIDTH, float(number), False, float(number), tree)
    return tree


def test_sixty_four_leaves_fit_and_one_more_is_left_to_onnx_runtime() -> None:
    onnx_graph = graph_of([chain(64), 0.5])
    rows = rows_of(list(range(70)), 5)
    answers = ForestScorer(forest_of(onnx_graph), WIDTH).score(rows)
    np.testing.assert_allclose(answers, scorer(onnx_graph)(rows)[:, 0], atol=2e-6)
    assert bit_forest(graph_of([chain(65)])) is None


def test_what_is_more_than_trees_and_a_link_is_left_to_onnx_runtime() -> None:
    tree = (1, 0.5, False, 1.0, 2.0)
    assert bit_forest(graph_of([tree], targets=2)) is None
    assert bit_forest(graph_of([tree], link="Softmax")) is None
    reversed_classes = GraphBuilder(WIDTH)
    one = reversed_classes.constant([1.0], np.float32)
    assert bit_forest(reversed_classes.build(reversed_classes.add("Sub", one, "features"), "answer", 1)) is None
    category = onnx.load_model_from_string(graph_of([tree]))
    (modes,) = [attribute for attribute in category.graph.node[0].attribute if attribute.name == "nodes_modes"]
    modes.strings[0] = b"BRANCH_EQ"
    assert bit_forest(category.SerializeToString()) is None
    identity = helper.make_graph(
        [helper.make_node("Cast", ["features"], ["answer"], to=TensorProto.FLOAT)],
        "none",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [None, 1])],
    )
    assert bit_forest(helper.make_model(identity).SerializeToString()) is None


@pytest.mark.parametrize(
    "name",
    [
        "GradientBoostingClassifier",
        "HistGradientBoostingClassifier",
        "XGBClassifier, one-hot",
        "LightGBM, one-hot",
        "CatBoost on encoded columns",
    ],
)
def test_small_trees_of_every_library_are_served_as_bit_vectors(name: str, dataset: Dataset) -> None:
    kind = KINDS[name]
    rows = dataset.rows[:2000]
    model = fit(kind, 20, rows, dataset.labels[:2000])
    graph, _ = converted(kind, model, rows)
    expected = scorer(graph.onnx)(rows)
    assert compare(forest_of(graph.onnx), expected, rows).max_abs_difference < 1e-6


def test_a_forest_that_scores_otherwise_is_refused() -> None:
    forest = forest_of(graph_of([(1, 0.5, False, 1.0, 2.0)]))
    rows = rows_of(NUMBERS, 1)
    expected = scorer(graph_of([(1, 0.5, False, 1.0, 2.1)]))(rows)
    with pytest.raises(ImportRefused, match=r"the bit vectors and the registered model differ by 0\.0"):
        compare(forest, expected, rows)


def test_a_file_that_is_no_forest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(BundleError, match=r"model\.npz is not a forest that this version can load: no \.npz of bit v"):
        scoring._open_forest(path)
    forest = forest_of(graph_of([(WIDTH - 1, 0.5, False, 1.0, 2.0)]))
    with pytest.raises(ValueError, match=f"the forest splits on feature {WIDTH - 1}, a row has 3"):
        ForestScorer(forest, 3)
    np.savez(path, link="cloglog", **{name: getattr(forest, name) for name in forest.__slots__ if name != "link"})
    with pytest.raises(BundleError, match="link is 'cloglog'; allowed: identity, logistic, exp"):
        scoring._open_forest(path)
