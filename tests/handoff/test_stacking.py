"""The stack over two models: it is fitted on held-out answers, and the pod computes what scikit-learn computes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from custom_runtime.graph.joining import JoinParameters, Stack, combine
from custom_runtime.graph.tensors import BranchScores
from handoff.errors import DataError
from handoff.registered import ModelVersion, Reference, RegisteredModel
from handoff.stacking import fit, stack


def branches(rows: int = 4_000) -> tuple[dict[str, Any], Any]:
    """Return two noisy views of one log-odds, and labels drawn from it."""
    dice = np.random.default_rng(5)
    truth = dice.normal(size=rows)
    answers = {
        name: 1 / (1 + np.exp(-(truth + dice.normal(0, spread, rows)))) for name, spread in (("a", 0.7), ("b", 1.0))
    }
    return answers, (dice.random(rows) < 1 / (1 + np.exp(-truth))).astype(np.int8)


def test_the_stack_is_better_than_each_branch_and_weighs_the_better_one_more() -> None:
    answers, labels = branches()
    fitted = fit(answers, labels)
    assert fitted.log_loss[""] < min(fitted.log_loss["a"], fitted.log_loss["b"])
    assert fitted.coefficients["a"] > fitted.coefficients["b"] > 0


def test_the_pod_joins_as_scikit_learn_does() -> None:
    answers, labels = branches(500)
    fitted = fit(answers, labels)
    written = Stack.model_validate_json(fitted.to_json())
    scores = [BranchScores(name, answer[:, None]) for name, answer in answers.items()]
    joined, _ = combine(scores, JoinParameters(join="stacked", model="x"), written)
    log_odds = np.column_stack([np.log(answer / (1 - answer)) for answer in answers.values()])
    np.testing.assert_allclose(joined[:, 0], fitted.model.predict_proba(log_odds)[:, 1], atol=1e-9)


class Source:
    """A registry with one version for each name."""

    def __init__(self, **references: Reference | None) -> None:
        self.references = references

    def resolve(self, uri: str) -> ModelVersion:
        return ModelVersion(uri, "1", "run")

    def download(self, version: ModelVersion) -> RegisteredModel:
        return RegisteredModel(version, "sklearn", lambda: None, None, None, None, self.references[version.name])


def reference(answer: Any, labels: Any) -> Reference:
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[::2] = True
    rows = np.arange(len(labels), dtype=np.float32)[:, None]
    return Reference(rows, labels, held_out, answer[held_out][:, None])


def test_only_held_out_rows_are_used_and_both_must_have_held_out_the_same() -> None:
    answers, labels = branches(400)
    a, b = (reference(answers[name], labels) for name in ("a", "b"))
    fitted = stack(Source(a=a, b=b), {"x": "a", "y": "b"})
    assert (fitted.rows, list(fitted.coefficients)) == (200, ["x", "y"])
    assert json.loads(fitted.to_json())["source"] == "x=models:/a/1, y=models:/b/1"
    assert a.held_out is not None
    with pytest.raises(DataError, match="branch y was trained with other held-out rows than x"):
        stack(Source(a=a, b=replace(b, held_out=~a.held_out)), {"x": "a", "y": "b"})
    with pytest.raises(DataError, match="branch y: models:/b/1 has no held-out rows with labels and answers"):
        stack(Source(a=a, b=None), {"x": "a", "y": "b"})
    three = replace(b, held_out_answers=np.zeros((200, 3)))
    with pytest.raises(DataError, match="branch y has 3 outputs; a stack joins binary models"):
        stack(Source(a=a, b=three), {"x": "a", "y": "b"})
