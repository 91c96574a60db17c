"""A registered model -> an ONNX graph with one input and one output, ready to serve.

features float32 [n, WIDTH]  ->  <output> float32 [n, 1]         the probability of the positive class, or the value
                             ->  <output> float32 [n, classes]   the probability of each class, in the contract's order
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from custom_runtime.schema import Contract, OutputRole, TaskKind
from handoff.conversion.columns import Floats, Number
from handoff.conversion.estimators import Compiler
from handoff.conversion.graph import GraphBuilder
from handoff.conversion.inputs import ModelInput
from handoff.errors import ImportRefused

Precision = Literal["float32", "float64"]
# Tried in this order; the second only matters to what skl2onnx converts.
PRECISIONS: tuple[Precision, ...] = ("float32", "float64")


@dataclass(frozen=True, slots=True)
class Target:
    """What is predicted.

    output: the graph's output. classes: the contract's labels, in the order of the output's columns (binary: negative,
    positive), empty for regression. spellings: other ways to write a label, in lower case -> its place in classes.
    has_interval: a regression that answers the lower end, the value and the upper end.
    """

    kind: TaskKind
    output: str
    classes: tuple[str, ...] = ()
    spellings: Mapping[str, int] = field(default_factory=dict)
    has_interval: bool = False

    @property
    def columns(self) -> int:
        """How many columns the output has."""
        if self.kind == "multiclass":
            return len(self.classes)
        return 3 if self.has_interval else 1

    def place_of(self, label: Any) -> int | None:
        """Return which of `classes` a model's label is, None for none."""
        text = str(label)
        if text in self.classes:
            return self.classes.index(text)
        return self.spellings.get(text.lower().removesuffix(".0"))


def target_of(contract: Contract) -> Target:
    """Return what a contract predicts."""
    task = contract.task
    roles: Mapping[TaskKind, OutputRole] = {
        "binary": "probability",
        "multiclass": "probabilities",
        "regression": "value",
    }
    output = contract.output(roles[task.kind])
    spellings = {text: task.classes.index(meant) for text, meant in task.spellings.items()}
    has_interval = contract.output("interval") is not None
    return Target(task.kind, output.name if output else task.kind, task.classes, spellings, has_interval)


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX graph. has_spliced_parts: whether another library's converter wrote some of it."""

    onnx: bytes
    has_spliced_parts: bool


def convert(
    model: Any,
    inputs: ModelInput,
    target: Target,
    *,
    width: int,
    precision: Precision = "float32",
    nullable: bool = False,
) -> Converted:
    """Convert a fitted model. Raises ImportRefused naming the step that does not convert, and what would.

    width: of the packed row. nullable: whether a packed feature may be NaN.
    """
    order = class_order(model, target)
    graph = GraphBuilder(width, precision=precision)
    tensor = Compiler(graph, nullable).answer(model, inputs.traced(model), "")
    if target.kind == "multiclass" and order != list(range(len(order))):
        tensor = graph.select(tensor, order)
    elif target.kind == "binary" and order == [1, 0]:  # the model's second class is the negative one
        tensor = graph.cast(tensor, np.float64)
        tensor = graph.add("Sub", graph.constant([1.0], np.float64), tensor)
    return Converted(graph.build(tensor, target.output, target.columns), graph.has_spliced_parts)


def convert_last_step(
    model: Any, inputs: ModelInput, rows: NDArray[np.float32]
) -> tuple[bytes, NDArray[np.float32]] | None:
    """Return a pipeline's last step alone as a graph over rows that are encoded already, and such rows.

    It is what the steps before it cost beside; None where the model is no pipeline, or the step alone does not convert.
    """
    if type(model).__name__ != "Pipeline" or len(model.steps) < 2:
        return None
    encoded = model[:-1].transform(inputs.for_model(model, rows))
    encoded = np.asarray(encoded.toarray() if hasattr(encoded, "toarray") else encoded, dtype=np.float32)
    graph = GraphBuilder(encoded.shape[1])
    columns = [Number(place, decimal=False) for place in range(encoded.shape[1])]
    try:
        tensor = Compiler(graph).answer(model.steps[-1][1], columns, "")
        return graph.build(tensor, "answer", 1), encoded
    except (ImportRefused, ValueError):
        return None


def class_order(model: Any, target: Target) -> list[int]:
    """Return, for each class of the contract, its column in `predict_proba`; [] for regression.

    Raises ImportRefused when the model predicts something else.
    """
    kind = type(model).__name__
    classes = getattr(model, "classes_", None)
    if target.kind == "regression":
        # A CatBoost regressor has `classes_`, which is empty.
        if (classes is not None and len(classes)) or not hasattr(model, "predict"):
            raise ImportRefused(f"the model is a {kind}; wanted: a regressor, for the contract predicts a value")
        return []
    if not hasattr(model, "predict_proba") or classes is None:
        raise ImportRefused(f"the model is a {kind}; wanted: a classifier with predict_proba")
    places = [target.place_of(label) for label in classes]
    if sorted(places, key=str) != list(range(len(target.classes))):
        raise ImportRefused(
            f"the model predicts the classes {[str(label) for label in classes]}; "
            f"wanted: those of the contract, {list(target.classes)}"
        )
    return [places.index(place) for place in range(len(target.classes))]


def answers_of(model: Any, inputs: ModelInput, target: Target, rows: NDArray[np.float32]) -> Floats:
    """Return what the registered model itself answers for packed rows, float64 [n, target.columns]."""
    data = inputs.for_model(model, rows)
    if target.kind == "regression":
        answers = np.asarray(model.predict(data), dtype=np.float64).reshape(len(rows), -1)
        if answers.shape[1] != target.columns:
            raise ImportRefused(
                f"the model predicts {answers.shape[1]} values for each row; wanted: {target.columns}"
                + (" (lower end, value, upper end: the contract has an interval)" if target.has_interval else "")
            )
        return answers
    order = class_order(model, target)
    columns: Sequence[int] = order if target.kind == "multiclass" else order[1:]
    return np.asarray(model.predict_proba(data), dtype=np.float64)[:, columns]
