"""A converted graph that is nothing but trees -> the same trees as bit vectors (custom_runtime/model/forest.py)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from custom_runtime.model.forest import MOST_LEAVES, BitForest, Link
from handoff.conversion.graph import INPUT

LINKS: Mapping[str, Link] = {"Sigmoid": "logistic", "Exp": "exp"}
# Above it the lookups miss the processor's caches, and memory is worth more than microseconds.
MOST_BYTES = 16 << 20


def bit_forest(onnx_graph: bytes) -> BitForest | None:
    """Return the trees of a graph; None where it is more than trees of one output over the packed row and a link.

    Also None where a tree has more than 64 leaves, or splits in another way than by a threshold.
    """
    nodes = list(onnx.load_model_from_string(onnx_graph).graph.node)
    if len(nodes) < 2:
        return None
    trees, *links, last = nodes
    chained = all(list(node.input) == [before.output[0]] for before, node in itertools.pairwise(nodes))
    if trees.op_type != "TreeEnsembleRegressor" or list(trees.input) != [INPUT] or not chained or len(links) > 1:
        return None
    if last.op_type != "Cast" or any(node.op_type not in LINKS for node in links):
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in trees.attribute}
    if attributes["n_targets"] != 1 or set(attributes["nodes_modes"]) - {b"LEAF", b"BRANCH_LEQ"}:
        return None
    reader = _Reader(attributes)
    for tree in range(reader.trees):
        if not reader.read(tree):
            return None
    return reader.forest(LINKS[links[0].op_type] if links else "identity")


@dataclass(slots=True)
class _Reader:
    """Numbers the leaves of each tree from left to right and collects the splits above them."""

    attributes: Mapping[str, Any]
    splits: list[tuple[int, float, int, int, int, bool]] = field(default_factory=list)
    leaves: list[list[float]] = field(default_factory=list)
    _nodes: dict[tuple[int, int], int] = field(init=False)
    _weights: dict[tuple[int, int], float] = field(init=False)

    def __post_init__(self) -> None:
        of = self.attributes
        places = zip(of["nodes_treeids"], of["nodes_nodeids"], strict=True)
        self._nodes = {node: place for place, node in enumerate(places)}
        leaves = zip(of["target_treeids"], of["target_nodeids"], strict=True)
        self._weights = dict(zip(leaves, of["target_weights"], strict=True))

    @property
    def trees(self) -> int:
        """How many trees there are; they are numbered from 0."""
        return int(max(self.attributes["nodes_treeids"])) + 1

    def read(self, tree: int) -> bool:
        """Read one tree; False when it has more leaves than fit, counting one for each way that leads to it."""
        self.leaves.append([])
        return self._below(tree, 0) is not None

    def forest(self, link: Link) -> BitForest:
        """Return what was read."""
        columns: list[Any] = [list(column) for column in zip(*self.splits, strict=True)] or [[]] * 6
        leaves = np.zeros((len(self.leaves), max(map(len, self.leaves))), dtype=np.float32)
        for tree, values in enumerate(self.leaves):
            leaves[tree, : len(values)] = values
        return BitForest(
            feature=np.array(columns[0], dtype=np.int32),
            threshold=np.array(columns[1], dtype=np.float32),
            tree=np.array(columns[2], dtype=np.int32),
            left=np.array(columns[3], dtype=np.uint64),
            right=np.array(columns[4], dtype=np.uint64),
            missing_left=np.array(columns[5], dtype=np.bool_),
            leaves=leaves,
            base=float((self.attributes.get("base_values") or [0.0])[0]),
            link=link,
        )

    def _below(self, tree: int, node: int) -> int | None:
        """Return the set of the leaves below a node, after reading them; None where there are too many."""
        place, of = self._nodes[tree, node], self.attributes
        leaves = self.leaves[tree]
        if of["nodes_modes"][place] == b"LEAF":
            if len(leaves) == MOST_LEAVES:
                return None
            leaves.append(self._weights[tree, node])
            return 1 << (len(leaves) - 1)
        left = self._below(tree, of["nodes_truenodeids"][place])
        right = None if left is None else self._below(tree, of["nodes_falsenodeids"][place])
        if left is None or right is None:
            return None
        missing = of.get("nodes_missing_value_tracks_true")
        self.splits.append(
            (
                of["nodes_featureids"][place], of["nodes_values"][place], tree, left, right,
                bool(missing[place]) if missing else False,
            )
        )  # fmt: skip
        return left | right
