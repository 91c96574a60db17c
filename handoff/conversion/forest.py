"""Tree ensembles as one value, and their ONNX form: a single node that splits on the packed features themselves.

Every split asks a question about one column of the fitted model's matrix: is it at most (or below) a threshold, or one
of some categories? A column is a function of one packed feature (columns.py), so the question is rewritten exactly:

- about a category's code: the codes for which the answer is yes, as one or a few comparisons of the code;
- about a number: the greatest float32 for which the answer is yes, found by bisection with the model's own arithmetic.

No prologue remains, no threshold is rounded, and one row costs what the same trees cost on encoded features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handoff.conversion.columns import Category, Column, Floats, Number, materialize
from handoff.conversion.graph import INPUT, ML_DOMAIN, GraphBuilder

LEAF = -1
Answers = NDArray[np.bool_]
Question = Callable[[Floats], Answers]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree; every array has one entry per node, node 0 is the root.

    feature: the column of a split, LEAF for a leaf. threshold: float64. left, right: children. missing_left: where NaN
    goes. values: what a leaf adds, float64 [nodes, outputs]. questions: splits that are no comparison (categories).
    """

    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: Answers
    values: Floats
    questions: Mapping[int, Question] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Forest:
    """The sum of trees, plus base [outputs].

    strict: a split asks x < threshold, otherwise x <= threshold. single: the model rounds its input to float32 first.
    """

    trees: Sequence[Tree]
    base: Floats
    strict: bool = False
    single: bool = True


def emit_forest(graph: GraphBuilder, forest: Forest, columns: Sequence[Column], *, nullable: bool) -> str:
    """Add a forest to the graph and return its output's name, float32 [n, outputs].

    nullable: whether a packed feature may be NaN; without, ONNX Runtime takes a faster path through the trees.
    """
    source = INPUT
    if not all(isinstance(column, Category) or _is_foldable(column) for column in columns):
        used = sorted({int(feature) for tree in forest.trees for feature in tree.feature if feature != LEAF})
        source = materialize(graph, [columns[feature] for feature in used], np.float32)
        plain = {feature: Number(place, decimal=False) for place, feature in enumerate(used)}
        columns = [plain.get(feature, column) for feature, column in enumerate(columns)]
        nullable = True
    writer = _Writer(forest, columns, nullable=nullable)
    for tree in forest.trees:
        writer.write(tree)
    return graph.add(
        "TreeEnsembleRegressor",
        source,
        domain=ML_DOMAIN,
        n_targets=len(forest.base),
        base_values=[float(value) for value in forest.base],
        **writer.attributes(),
    )


def _is_foldable(column: Column) -> bool:
    return isinstance(column, Number) and column.is_increasing


class _Writer:
    """Collects the nodes of all trees in the order that TreeEnsembleRegressor needs: the root of each tree first."""

    def __init__(self, forest: Forest, columns: Sequence[Column], *, nullable: bool) -> None:
        self._forest = forest
        self._columns = columns
        self._nullable = nullable
        self._limits = _limits_of(forest, columns)
        self._trees: list[list[list[Any]]] = []
        self._leaves: list[tuple[int, int, int, float]] = []

    def write(self, tree: Tree) -> None:
        """Append a tree."""
        self._trees.append([])
        self._node(tree, 0, {})

    def attributes(self) -> dict[str, Any]:
        """Return the operator's attributes."""
        rows = [(tree, number, *node) for tree, nodes in enumerate(self._trees) for number, node in enumerate(nodes)]
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
        attributes: dict[str, Any] = {f"nodes_{name}": [row[place] for row in rows] for place, name in enumerate(names)}
        if self._nullable:
            attributes["nodes_missing_value_tracks_true"] = [row[7] for row in rows]
        for place, name in enumerate(("treeids", "nodeids", "ids", "weights")):
            attributes[f"target_{name}"] = [leaf[place] for leaf in self._leaves]
        return attributes

    def _node(self, tree: Tree, node: int, written: dict[int, int]) -> int:
        """Write a node and what is below it; return its number. A node that two comparisons lead to is written once."""
        if node not in written:
            feature = int(tree.feature[node])
            if feature == LEAF:
                written[node] = self._leaf(tree.values[node])
            else:
                column = self._columns[feature]
                if isinstance(column, Category):
                    written[node] = self._category(tree, node, column, written)
                elif isinstance(column, Number):
                    written[node] = self._number(tree, node, column, written)
        return written[node]

    def _leaf(self, values: Floats) -> int:
        number = self._append(0, "LEAF", 0.0)
        tree = len(self._trees) - 1
        self._leaves += [(tree, number, output, float(value)) for output, value in enumerate(values)]
        return number

    def _number(self, tree: Tree, node: int, column: Number, written: dict[int, int]) -> int:
        limit = self._limits[int(tree.feature[node]), float(tree.threshold[node])]
        missing_left = bool(tree.missing_left[node])
        if any(operation.kind == "fill" for operation in column.operations):
            filled = _evaluated(column, np.array([np.nan], dtype=np.float32))
            missing_left = bool(_answers(self._forest, tree, node, filled)[0])
        left, right = int(tree.left[node]), int(tree.right[node])
        if np.isinf(limit) and not (self._nullable and missing_left != (limit > 0)):
            return self._node(tree, left if limit > 0 else right, written)
        return self._split(tree, column.source, limit, left, right, written, missing_left)

    def _category(self, tree: Tree, node: int, column: Category, written: dict[int, int]) -> int:
        """Write a question about a category as comparisons of its code, one for each change of the answer."""
        answers = _answers(self._forest, tree, node, np.asarray(column.values, dtype=np.float64))
        sides = [int(tree.left[node]) if answer else int(tree.right[node]) for answer in answers]
        ends = [code for code in range(len(sides) - 1) if sides[code] != sides[code + 1]]
        return self._segments(tree, column.source, ends, sides, written)

    def _segments(self, tree: Tree, source: int, ends: list[int], sides: list[int], written: dict[int, int]) -> int:
        if not ends:
            return self._node(tree, sides[-1], written)
        number = self._append(source, "BRANCH_LEQ", float(ends[0]))
        # ONNX Runtime visits the false branch first, and a node that is reached twice must be new there.
        below = self._segments(tree, source, ends[1:], sides, written)
        self._trees[-1][number][3:5] = [self._node(tree, sides[ends[0]], written), below]
        return number

    def _split(
        self, tree: Tree, source: int, limit: float, left: int, right: int, written: dict[int, int], missing_left: bool
    ) -> int:
        number = self._append(source, "BRANCH_LEQ", limit, missing_left)
        below = self._node(tree, right, written)
        self._trees[-1][number][3:5] = [self._node(tree, left, written), below]
        return number

    def _append(self, feature: int, mode: str, value: float, missing_left: bool = False) -> int:
        self._trees[-1].append([feature, mode, value, 0, 0, int(missing_left)])
        return len(self._trees[-1]) - 1


def _answers(forest: Forest, tree: Tree, node: int, values: Floats) -> Answers:
    """Ask a split about values of its column; True goes left."""
    if forest.single:
        values = values.astype(np.float32).astype(np.float64)
    missing = np.isnan(values)
    if node in tree.questions:
        answers = tree.questions[node](values)
    elif forest.strict:
        answers = values < tree.threshold[node]
    else:
        answers = values <= tree.threshold[node]
    return np.where(missing, tree.missing_left[node], answers)


def _limits_of(forest: Forest, columns: Sequence[Column]) -> dict[tuple[int, float], float]:
    """Return, for each numeric column and threshold, the greatest packed float32 that goes left (-inf: none does)."""
    wanted: dict[int, set[float]] = {}
    for tree in forest.trees:
        for node, feature in enumerate(tree.feature):
            if feature != LEAF and isinstance(columns[feature], Number):
                if node in tree.questions:
                    raise ValueError("splits by category on a column of numbers")
                wanted.setdefault(int(feature), set()).add(float(tree.threshold[node]))
    limits = {}
    for feature, found in wanted.items():
        thresholds = np.array(sorted(found))
        for threshold, limit in zip(thresholds, _bisect(columns[feature], thresholds, forest), strict=True):
            limits[feature, float(threshold)] = float(limit)
    return limits


def _bisect(column: Column, thresholds: Floats, forest: Forest) -> NDArray[np.float32]:
    infinity = int(np.float32(np.inf).view(np.int32))
    low = np.full(len(thresholds), -infinity, dtype=np.int64)  # the place of a float32 among all of them, in order
    high = np.full(len(thresholds), infinity, dtype=np.int64)
    while (high - low > 1).any():
        middle = (low + high) // 2
        values = _evaluated(column, _float_at(middle))
        if forest.single:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32).astype(np.float64)
        values = np.where(np.isnan(values), -np.inf, values)  # below the domain of a logarithm
        left = (values < thresholds) if forest.strict else (values <= thresholds)
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    # Nothing finite above the limit goes left, or everything finite does.
    return np.where(high == infinity, np.float32(np.inf), _float_at(low)).astype(np.float32)


def _evaluated(column: Column, packed: NDArray[np.float32]) -> Floats:
    if isinstance(column, Number):
        return column.evaluate(packed)
    raise TypeError(f"{type(column).__name__} is no column of numbers")


def _float_at(place: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = np.where(place >= 0, place, (-place) | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)
