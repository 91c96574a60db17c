"""Feature matrix -> scores (probabilities, or values): bit vectors of trees, ONNX Runtime, or XGBoost itself.

Measured side by side on one thread, microseconds of one call, 200 trees of 14 leaves, rows that are new each time:

| rows | bit vectors | ONNX Runtime | XGBoost's `inplace_predict` |
|---|---|---|---|
| 1 | 23 | 15 | 153 |
| 14 | 35 | 88 | 212 |
| 64 | 92 | 370 | 288 |
| 512 | 697 | 2,870 | 1,306 |

The server joins what waits into batches, so what counts is a batch of 5 to 20 rows (docs/adr/0025-bit-vectors.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.errors import BundleError
from custom_runtime.model.bundle import Bundle
from custom_runtime.model.encoding import WIDTH, Matrix
from custom_runtime.model.forest import BitForest, ForestScorer

Kind = Literal["forest", "onnx", "xgboost"]  # also the role of the bundle's file
_ONE_COLUMN = CONTRACT.columns == 1


class Scorer(Protocol):
    """Scores a feature matrix. Implementations may be called from several threads at once."""

    def score(self, rows: Matrix) -> NDArray[np.float32]:
        """Return scores for rows float32 [n, WIDTH]: float32 [n] for a contract of one column, else [n, columns]."""


class OnnxScorer:
    """ONNX Runtime on the calling thread: its own thread pool would compete with the event loop for the pod's core."""

    def __init__(self, path: Path) -> None:
        import onnxruntime  # takes 145 ms: not imported for `--help`, nor where XGBoost scores

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's C++ exceptions have no common base class
            raise BundleError(f"{path} is not a model that ONNX Runtime can load: {error}") from error
        (graph_input,), (graph_output, *_) = session.get_inputs(), session.get_outputs()
        if graph_input.shape[-1] != WIDTH:
            raise BundleError(f"{path} takes {graph_input.shape[-1]} features, the contract has {WIDTH}")
        self._run = session.run
        self._input = graph_input.name
        self._outputs = [graph_output.name]
        (answer,) = self._run(self._outputs, {self._input: np.zeros((1, WIDTH), dtype=np.float32)})
        _check_columns(path, answer)

    def score(self, rows: Matrix) -> NDArray[np.float32]:
        """See Scorer.score."""
        (scores,) = self._run(self._outputs, {self._input: rows})
        return scores[:, 0] if _ONE_COLUMN else scores  # type: ignore[no-any-return]


class XgboostScorer:
    """XGBoost's own prediction on the native model file."""

    def __init__(self, path: Path) -> None:
        import xgboost  # imports scipy: only where it is chosen

        self._booster: Any = xgboost.Booster({"nthread": 1})
        try:
            self._booster.load_model(path)
        except xgboost.core.XGBoostError as error:
            raise BundleError(f"{path} is not a model that XGBoost can load: {error}") from error
        _check_columns(path, self.score(np.zeros((1, WIDTH), dtype=np.float32)).reshape(1, -1))

    def score(self, rows: Matrix) -> NDArray[np.float32]:
        """See Scorer.score."""
        return self._booster.inplace_predict(rows, validate_features=False)  # type: ignore[no-any-return]


def _check_columns(path: Path, answer: NDArray[np.float32]) -> None:
    """Refuse a model that answers more or less than the contract: its last column would be another class."""
    if answer.ndim != 2 or answer.shape[1] != CONTRACT.columns:
        raise BundleError(
            f"{path} answers {list(answer.shape)} for one row, the contract {CONTRACT.name!r} has {CONTRACT.columns} "
            f"column{'s' * (CONTRACT.columns != 1)}; import the model again"
        )


def scorer_kind(bundle: Bundle, setting: Kind | Literal["auto"]) -> Kind:
    """Return what scores a bundle under a value of SERVING_SCORER; auto: bit vectors where the import wrote some."""
    if setting != "auto":
        return setting
    return "forest" if "forest" in bundle.files else "onnx"


def open_scorer(bundle: Bundle, setting: Kind | Literal["auto"] = "auto") -> Scorer:
    """Open the bundle's model for scoring (see scorer_kind). Raises BundleError."""
    kind = scorer_kind(bundle, setting)
    path = bundle.path(kind)
    if kind == "xgboost":
        return XgboostScorer(path)
    return _open_forest(path) if kind == "forest" else OnnxScorer(path)


def _open_forest(path: Path) -> ForestScorer:
    try:
        return ForestScorer(BitForest.load(path.read_bytes()), WIDTH)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is not a forest that this version can load: {error}") from error
