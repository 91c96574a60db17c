"""A small model over several models: a logistic regression on their log-odds, for the graph's node `join: stacked`.

It is fitted on held-out rows only (Wolpert 1992, "Stacked generalization"): on rows that a branch was trained on, the
branch looks better than it is, and the stack trusts it too much. The answers on held-out rows were logged by the
training of each branch; both trainings must have held out the same rows. The stack is registered as a model of its own,
and the pod reads its coefficients from a JSON file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from custom_runtime.graph.joining import Stack, log_odds
from handoff.errors import DataError
from handoff.registered import ModelVersion, Reference, RegisteredModel

# The inverse of the penalty: next to none for two coefficients and thousands of rows.
_INVERSE_PENALTY = 1e4


class Branches(Protocol):
    """A registry that the branches come from."""

    def resolve(self, uri: str) -> ModelVersion:
        """Return the version that a model URI names."""

    def download(self, version: ModelVersion) -> RegisteredModel:
        """Return a version."""


@dataclass(frozen=True, slots=True)
class Stacked:
    """A fitted stack. log_loss: on the rows it was fitted on, of the stack ("") and of each branch alone."""

    model: LogisticRegression
    coefficients: Mapping[str, float]
    intercept: float
    sources: Mapping[str, str]
    rows: int
    log_loss: Mapping[str, float]

    def to_json(self) -> bytes:
        """Return the file that the node reads."""
        source = ", ".join(f"{name}={uri}" for name, uri in self.sources.items())
        written = Stack(coefficients=dict(self.coefficients), intercept=self.intercept, source=source)
        return written.model_dump_json(indent=1).encode()


def stack(source: Branches, branches: Mapping[str, str]) -> Stacked:
    """Fit a stack of registered binary models; branches: the node's name -> its model URI.

    Raises DataError when a branch has no logged held-out answers or another one held out other rows.
    """
    versions = {name: source.resolve(uri) for name, uri in branches.items()}
    references = {name: _held_out(name, source.download(version)) for name, version in versions.items()}
    first = next(iter(references.values()))
    for name, reference in references.items():
        if not (np.array_equal(reference.rows, first.rows) and _same(reference.held_out, first.held_out)):
            raise DataError(f"branch {name} was trained with other held-out rows than {next(iter(references))}")
    assert first.labels is not None  # noqa: S101 (_held_out refuses it)
    assert first.held_out is not None  # noqa: S101 (_held_out refuses it)
    labels = first.labels[first.held_out]
    answers = {name: _of_class_one(name, reference) for name, reference in references.items()}
    return fit(answers, labels, {name: version.uri for name, version in versions.items()})


def fit(
    answers: Mapping[str, NDArray[np.float64]], labels: NDArray[np.int8], sources: Mapping[str, str] | None = None
) -> Stacked:
    """Fit on the branches' probabilities of class 1 (float64 [n] each) and the labels (0 or 1, [n])."""
    columns = np.column_stack([log_odds(answer) for answer in answers.values()])
    model = LogisticRegression(C=_INVERSE_PENALTY).fit(columns, labels)
    losses = {name: float(log_loss(labels, expit(column))) for name, column in zip(answers, columns.T, strict=True)}
    return Stacked(
        model=model,
        coefficients=dict(zip(answers, model.coef_[0].tolist(), strict=True)),
        intercept=float(model.intercept_[0]),
        sources=dict(sources or {}),
        rows=len(labels),
        log_loss={"": float(log_loss(labels, model.predict_proba(columns))), **losses},
    )


def _same(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def _held_out(name: str, registered: RegisteredModel) -> Reference:
    reference = registered.reference
    if (
        reference is None
        or reference.labels is None
        or reference.held_out is None
        or reference.held_out_answers is None
    ):
        raise DataError(
            f"branch {name}: {registered.version.uri} has no held-out rows with labels and answers; train it with "
            "churn-serving train"
        )
    return reference


def _of_class_one(name: str, reference: Reference) -> NDArray[np.float64]:
    answers = reference.held_out_answers
    assert answers is not None  # noqa: S101 (_held_out refuses it)
    if answers.ndim == 2 and answers.shape[1] > 2:
        raise DataError(f"branch {name} has {answers.shape[1]} outputs; a stack joins binary models")
    return answers.reshape(len(answers), -1)[:, -1]
