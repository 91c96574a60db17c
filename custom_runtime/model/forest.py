"""Tree ensembles scored by bit vectors: which leaves a batch of rows reaches in all trees, in a dozen numpy calls.

The method is QuickScorer's (Lucchese et al., "QuickScorer: A Fast Algorithm to Rank Documents with Additive Ensembles
of Regression Trees", SIGIR 2015). The leaves of each tree are numbered from left to right, one bit each. A split whose
answer is "right" excludes the leaves below its left child, and the other way round; what all splits leave is one bit,
the leaf that is reached. Which splits answer "right" depends, feature by feature, only on where the value lies among
the sorted thresholds of all trees. So for each such place the sets of all trees are intersected beforehand, and a row
costs one lookup and one AND for each feature; features of few thresholds share a lookup. No branch depends on a row,
which is what a walk through the trees spends its time on: a processor predicts such branches badly.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Link = Literal["identity", "logistic", "exp"]
MOST_LEAVES = 64  # of a tree: the bits of the widest integer
# Products of the places of features with few thresholds; larger ones would fall out of the processor's cache.
_MOST_PLACES = 1024
_FEW_THRESHOLDS = 8
# The lookups of one block of rows stay in the second-level cache.
_BLOCK_BYTES = 1 << 20
_LARGEST_EXPONENT = np.float32(87.0)  # exp(88.8) overflows float32
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BitForest:
    """A sum of trees of one output over the packed feature row: link(base + the sum of the leaves that are reached).

    Splits of all trees, one entry each: feature; threshold float32, the greatest value that goes left; tree; left and
    right uint64, the leaves below that child, bit i for leaf i; missing_left, where NaN goes. leaves: what each leaf
    adds, float32 [trees, most leaves of a tree], padded with zeros.
    """

    feature: NDArray[np.int32]
    threshold: Floats
    tree: NDArray[np.int32]
    left: NDArray[np.uint64]
    right: NDArray[np.uint64]
    missing_left: NDArray[np.bool_]
    leaves: Floats
    base: float
    link: Link

    def dump(self) -> bytes:
        """Return the forest as the bundle's file: an .npz without pickles, the same bytes for the same forest."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self.__slots__}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def load(cls, content: bytes) -> BitForest:
        """Read what `dump` wrote. Raises ValueError when it is something else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                arrays: dict[str, Any] = {name: stored[name] for name in cls.__slots__}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"no .npz of bit vectors: {error}") from error
        link = str(arrays["link"])
        if link not in get_args(Link):
            raise ValueError(f"link is {link!r}; allowed: {', '.join(get_args(Link))}")
        return cls(**arrays | {"base": float(arrays["base"]), "link": link})


class ForestScorer:
    """Scores rows with a BitForest. A row's score does not depend on the rows beside it; threads may share a scorer."""

    def __init__(self, forest: BitForest, width: int) -> None:
        """width: features of a row. Raises ValueError when the forest splits on others."""
        if len(forest.feature) and int(forest.feature.max()) >= width:
            raise ValueError(f"the forest splits on feature {int(forest.feature.max())}, a row has {width}")
        trees, most_leaves = forest.leaves.shape
        bits = next(bits for bits in (8, 16, 32, 64) if bits >= most_leaves)
        columns = [_Column.of(forest, feature, np.dtype(f"u{bits // 8}")) for feature in np.unique(forest.feature)]
        groups = _grouped([column for column in columns if len(column.limits) <= _FEW_THRESHOLDS])
        alone = [column for column in columns if len(column.limits) > _FEW_THRESHOLDS]
        tables = [_product([column.reachable for column in group]) for group in groups]
        tables += [column.reachable for column in alone]
        starts = np.cumsum([0, *map(len, tables)])
        self._reachable = np.concatenate(tables) if tables else np.empty((0, trees), f"u{bits // 8}")
        self._alone = [
            # NaN is sorted behind every number, so its place is the last one.
            (int(column.feature), np.append(column.limits, np.float32(np.nan)), int(start))
            for column, start in zip(alone, starts[len(groups) :], strict=False)
        ]
        self._groups = len(groups)
        self._group_starts = starts[: len(groups), None].astype(np.float32)
        compared = [(column, limit) for group in groups for column in group for limit in column.limits]
        self._compared = np.array([column.feature for column, _ in compared], dtype=np.intp)
        self._limits = np.array([limit for _, limit in compared], dtype=np.float32)
        # A group's place is a sum: of its features' places, each times the number of places of those before it.
        self._weights = np.zeros((len(groups), len(compared)), dtype=np.float32)
        self._missing_weights = np.zeros((len(groups), width), dtype=np.float32)
        for number, group in enumerate(groups):
            stride = 1
            for column in group:
                of_column = (self._compared == column.feature).nonzero()[0]
                self._weights[number, of_column] = stride
                self._missing_weights[number, column.feature] = stride * (len(column.limits) + 1)
                stride *= len(column.reachable)
        # A power of two as float32 is its exponent plus 127, in the bits from the 23rd on.
        self._leaf_starts = (np.arange(trees) * most_leaves - 127).astype(np.int32)
        self._leaves = np.ascontiguousarray(forest.leaves, dtype=np.float32).ravel()
        self._base = np.float32(forest.base)
        self._link = _LINKS[forest.link]
        row_bytes = max(1, len(tables) * trees * bits // 8)
        self._block_rows = max(16, _BLOCK_BYTES // row_bytes)

    @property
    def size_bytes(self) -> int:
        """What the tables occupy in memory."""
        return int(self._reachable.nbytes + self._leaves.nbytes)

    def score(self, rows: Floats) -> Floats:
        """Return link(margin), float32 [n], for rows float32 [n, width]."""
        if len(rows) <= self._block_rows:
            return self._link(self._margins(rows))
        starts = range(0, len(rows), self._block_rows)
        return self._link(np.concatenate([self._margins(rows[start : start + self._block_rows]) for start in starts]))

    def _margins(self, rows: Floats) -> Floats:
        places = np.empty((self._groups + len(self._alone), len(rows)), dtype=np.intp)
        if self._groups:
            above = (rows.take(self._compared, axis=1) >= self._limits).astype(np.float32)
            # Not `@`: for wide rows BLAS would start threads, which wait for each other in a pod of one core.
            group_places = np.einsum("gc,nc->gn", self._weights, above)
            if math.isnan(np.maximum.reduce(rows, axis=None)):
                missing = np.isnan(rows).astype(np.float32)
                group_places += np.einsum("gc,nc->gn", self._missing_weights, missing)
            np.add(group_places, self._group_starts, out=places[: self._groups], casting="unsafe")
        for number, (feature, limits, start) in enumerate(self._alone, self._groups):
            np.add(limits.searchsorted(rows[:, feature], "right"), start, out=places[number])
        reached = np.bitwise_and.reduce(self._reachable.take(places, axis=0), axis=0)
        reached &= np.negative(reached)  # the lowest bit: padding above a tree's leaves is set, too
        leaf = reached.astype(np.float32).view(np.int32)
        leaf >>= 23
        leaf += self._leaf_starts
        margins: Floats = np.add.reduce(self._leaves.take(leaf), axis=1)
        margins += self._base
        return margins


def _logistic(margins: Floats) -> Floats:
    """Return 1 / (1 + exp(-margin)), float32 [n]."""
    odds: Floats = np.exp(-np.maximum(margins, -_LARGEST_EXPONENT))
    odds += 1
    return np.reciprocal(odds)


def _exp(margins: Floats) -> Floats:
    with np.errstate(over="ignore"):  # infinity, as ONNX Runtime answers
        return np.exp(margins)


_LINKS: Mapping[Link, Callable[[Floats], Floats]] = {
    "identity": lambda margins: margins,
    "logistic": _logistic,
    "exp": _exp,
}


@dataclass(frozen=True, slots=True)
class _Column:
    """One feature: limits, the sorted thresholds, each the least value that goes right.

    reachable [thresholds + 2, trees]: the leaves that the feature's splits leave, by its place: how many limits are at
    most the value; last, NaN's.
    """

    feature: int
    limits: Floats
    reachable: NDArray[Any]

    @classmethod
    def of(cls, forest: BitForest, feature: int, dtype: np.dtype[Any]) -> _Column:
        chosen = forest.feature == feature
        limits, place = np.unique(
            np.nextafter(forest.threshold[chosen], np.float32(np.inf), dtype=np.float32), return_inverse=True
        )
        tree = forest.tree[chosen]
        not_left = ~forest.left[chosen].astype(dtype)
        not_right = ~forest.right[chosen].astype(dtype)
        everything = np.full((len(limits) + 2, len(forest.leaves)), np.iinfo(dtype).max, dtype=dtype)
        above, below = everything.copy(), everything
        np.bitwise_and.at(above, (place + 1, tree), not_left)
        np.bitwise_and.at(below, (place, tree), not_right)
        above[:-1] = np.bitwise_and.accumulate(above[:-1], axis=0)
        below[:-1] = np.bitwise_and.accumulate(below[-2::-1], axis=0)[::-1]
        reachable = above & below
        np.bitwise_and.at(reachable[-1], tree, np.where(forest.missing_left[chosen], not_right, not_left))
        return cls(int(feature), limits, reachable)


def _grouped(columns: Sequence[_Column]) -> list[list[_Column]]:
    """Join columns as long as the product of their places stays small."""
    groups: list[list[_Column]] = []
    places = 1
    for column in sorted(columns, key=lambda column: len(column.limits)):
        if not groups or places * len(column.reachable) > _MOST_PLACES:
            groups.append([])
            places = 1
        groups[-1].append(column)
        places *= len(column.reachable)
    return groups


def _product(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Intersect tables of several features: the first one's place counts ones, the next one's what is a stride."""
    product = parts[0]
    for part in parts[1:]:
        product = (part[:, None, :] & product[None, :, :]).reshape(-1, part.shape[1])
    return product
