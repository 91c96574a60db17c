import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from sklearn import metrics as sk

from custom_runtime.active import CONTRACT
from handoff.conversion.convert import Target
from handoff.errors import DataError, PromotionRefused
from handoff.evaluation.comparing import compare_answers
from handoff.evaluation.evaluating import Champion, evaluate
from handoff.evaluation.measures import MEASURED, calibration, curves, lift, metrics, weighted_auc, wilson
from handoff.evaluation.report import page
from handoff.evaluation.versions import evaluate_version, promote, write_evaluation
from handoff.importing import TARGET
from handoff.registered import CHAMPION
from handoff.registry import Registry
from handoff.training import TrainedModel
from tests.handoff.conftest import Registered

FEATURES = CONTRACT.features


@pytest.fixture(scope="module")
def truth() -> Any:
    return np.random.default_rng(0).integers(2, size=2000)


@pytest.fixture(scope="module")
def scores(truth: Any) -> Any:
    """A calibrated-looking score with ties, that knows something of the truth."""
    noise = np.random.default_rng(1).normal(size=len(truth))
    return np.round(1 / (1 + np.exp(-(1.5 * (truth - 0.5) + noise))), 2)


def test_the_metrics_are_those_of_scikit_learn(truth: Any, scores: Any) -> None:
    found = metrics("binary", truth, scores[:, None])
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, scores))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, np.clip(scores, 1e-7, 1 - 1e-7)), abs=1e-6)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, scores))
    value = truth + scores
    assert metrics("regression", value, scores[:, None])["r2"] == pytest.approx(sk.r2_score(value, scores))
    several = np.column_stack([scores / 2, scores / 2, 1 - scores])
    classes = truth + 1
    assert metrics("multiclass", classes, several)["log_loss"] == pytest.approx(
        sk.log_loss(classes, several, labels=[0, 1, 2]), abs=1e-5
    )


@pytest.mark.parametrize(
    ("task", "outputs", "count"), [("binary", 1, 5), ("multiclass", 2, 4), ("regression", 1, 3), ("regression", 3, 5)]
)
def test_a_floor_may_name_every_metric_and_no_other(
    truth: Any, scores: Any, task: str, outputs: int, count: int
) -> None:
    answers = np.column_stack([1 - scores, scores]) if outputs == 2 else np.repeat(scores[:, None], outputs, axis=1)
    assert set(metrics(task, truth, answers)) == set(MEASURED[task][:count])


def test_a_weighted_area_is_that_of_repeated_rows(truth: Any, scores: Any) -> None:
    weights = np.random.default_rng(2).integers(4, size=len(truth)).astype(float)
    expected = sk.roc_auc_score(truth, scores, sample_weight=weights)
    assert weighted_auc(truth, scores)(weights) == pytest.approx(expected)


def test_curves_calibration_and_lift_add_up(truth: Any, scores: Any) -> None:
    found = curves("Yes", truth == 1, scores)
    assert (found.roc.x[0], found.roc.y[0], found.roc.x[-1], found.roc.y[-1]) == (0, 0, 1, 1)
    bins = calibration(truth == 1, scores)
    assert sum(one.rows for one in bins) == len(truth)
    assert all(one.low <= one.observed <= one.high for one in bins)
    deciles = lift(truth == 1, scores)
    assert deciles[-1].gain == 1
    assert deciles[0].lift > 1 > deciles[-1].lift
    assert wilson(0, 10)[0] == 0
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_equal_models_show_no_difference_and_a_worse_one_does(truth: Any, scores: Any) -> None:
    same = compare_answers("binary", truth, scores[:, None], scores[:, None], champion="c", replicates=100)
    assert [found.verdict for found in same.differences] == ["no difference shown"] * 2
    worse = np.clip(scores + np.random.default_rng(3).normal(scale=0.3, size=len(scores)), 0.01, 0.99)
    found = compare_answers("binary", truth, worse[:, None], scores[:, None], champion="c", replicates=200)
    assert [one.metric for one in found.worse] == ["auc", "log_loss"]
    assert all(one.low <= one.difference <= one.high for one in found.differences)
    other_way = compare_answers("binary", truth, scores[:, None], worse[:, None], champion="c", replicates=200)
    assert [one.verdict for one in other_way.differences] == ["better", "better"]


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    """Two models of equal skill with errors of their own: 95 % of the intervals hold zero."""
    random = np.random.default_rng(4)
    missed = 0
    for _ in range(60):
        truth = random.integers(2, size=300)
        first, second = (
            np.clip(0.5 + 0.3 * (truth - 0.5) + random.normal(scale=0.2, size=300), 0.01, 0.99) for _ in "ab"
        )
        found = compare_answers("binary", truth, first[:, None], second[:, None], champion="c", replicates=200)
        missed += found.differences[0].verdict != "no difference shown"
    assert missed <= 9  # 3 are expected; 10 or more of 60 at 5 % has a chance of 0.1 %


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_task_has_a_page_that_needs_nothing_else(task: Any, truth: Any, scores: Any) -> None:
    rows = np.zeros((len(truth), len(FEATURES)), dtype=np.float32)
    classes = {"binary": ("No", "Yes"), "multiclass": ("<a>", "b", "c"), "regression": ()}[task]
    answers = scores[:, None]
    if task == "multiclass":
        answers = np.column_stack([1 - scores, scores * 0.9, scores * 0.1])
    target = Target(task, "output", classes)
    wanted = truth + scores if task == "regression" else truth
    found = evaluate(
        target, FEATURES, rows, wanted, answers, model="models:/m/1", source="<table>", score=lambda rows: answers,
        champion=Champion("models:/m/0", answers, "the same"),
    )  # fmt: skip
    text = page(found)
    assert not re.search(r"(src|href)=|<script|@import|url\(", text)
    assert "&lt;table&gt;" in text
    assert "<table>rows" not in text
    assert json.loads(found.model_dump_json())["metrics"] == pytest.approx(found.metrics)
    assert len(found.importance) == len(FEATURES)
    assert {segment.feature for segment in found.segments} == {f.name for f in FEATURES if f.is_category}
    if task == "multiclass":
        assert [row.label for row in found.class_table] == list(classes)
        assert sum(map(sum, found.confusion)) == len(truth)
        assert "&lt;a&gt;" in text
    if task == "regression":
        assert found.residuals is not None
        assert sum(found.residuals.counts) == len(truth)


def test_rows_of_one_class_are_refused(scores: Any) -> None:
    rows = np.zeros((len(scores), len(FEATURES)), dtype=np.float32)
    with pytest.raises(DataError, match="t cannot be evaluated on: an area under the curve needs rows of both classes"):
        evaluate(TARGET, FEATURES, rows, np.zeros(len(scores), dtype=int), scores[:, None], model="m", source="t")
    with pytest.raises(DataError, match="t has 3 labelled rows to evaluate on; at least 20 are needed"):
        evaluate(TARGET, FEATURES, rows[:3], np.zeros(3, dtype=int), scores[:3, None], model="m", source="t")


def test_a_version_is_measured_on_the_rows_it_was_not_fitted_on(
    registered: Registered, trained: dict[str, TrainedModel], tmp_path: Path
) -> None:
    registry, version = registered.registry, registered.versions["sklearn"]
    found = evaluate_version(registry, version.uri)
    assert found.rows == 1409
    assert found.metrics["auc"] == pytest.approx(trained["sklearn"].metrics["auc"])
    assert found.metrics["brier"] == pytest.approx(trained["sklearn"].metrics["brier"])
    assert found.comparison is not None
    assert found.comparison.champion == registered.versions["xgboost"].uri
    assert found.comparison.note == ""  # both were measured without these rows
    assert found.importance[0].increase > 0.005
    html, document = write_evaluation(found, tmp_path, version)
    assert registry.log_evaluation(version, [html, document], found.metrics)
    client = mlflow.MlflowClient(registry.uri)
    assert {file.path for file in client.list_artifacts(version.run_id, "evaluation")} == {
        f"evaluation/{html.name}",
        f"evaluation/{document.name}",
    }
    assert client.get_run(version.run_id).data.metrics["evaluation.auc"] == pytest.approx(found.metrics["auc"])


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    return Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_the_champion_moves_only_to_what_is_not_worse(registry: Registry, trained: dict[str, TrainedModel]) -> None:
    champion = registry.register(trained["xgboost"])
    assert promote(registry, champion.uri).previous is None
    reference = trained["xgboost"].reference
    blurred = np.random.default_rng(0).permutation(np.asarray(reference.held_out_answers))
    worse = dataclasses.replace(trained["xgboost"], reference=dataclasses.replace(reference, held_out_answers=blurred))
    challenger = registry.register(worse)
    with pytest.raises(PromotionRefused, match=r"significantly worse than the champion models:/churn/1 .* auc 0\.\d+ "):
        promote(registry, "models:/churn@challenger")
    assert registry.resolve(f"models:/churn@{CHAMPION}") == champion
    assert promote(registry, challenger.uri, force=True, dry_run=True).previous == champion
    assert registry.resolve(f"models:/churn@{CHAMPION}") == champion
    promote(registry, challenger.uri, force=True)
    assert registry.resolve(f"models:/churn@{CHAMPION}") == challenger
    better = promote(registry, champion.uri)
    assert better.evaluation is not None
    assert better.evaluation.comparison is not None
    assert [found.verdict for found in better.evaluation.comparison.differences] == ["better", "better"]


def test_a_challenger_without_labelled_rows_is_not_promoted_unseen(
    registry: Registry, trained: dict[str, TrainedModel]
) -> None:
    promote(registry, registry.register(trained["xgboost"]).uri)
    reference = dataclasses.replace(trained["sklearn"].reference, labels=None, held_out=None, held_out_answers=None)
    registry.register(dataclasses.replace(trained["sklearn"], reference=reference))
    with pytest.raises(PromotionRefused, match=r"cannot be compared with the champion .* --data FILE"):
        promote(registry, "models:/churn@challenger")
