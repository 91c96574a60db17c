"""The training profile holds the inputs and the answers of every task, and drift is measured against each part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.schema import Task, binary, multiclass, regression
from handoff.dataset import Dataset
from handoff.quality.drift import TrainingProfile, build_profile, drift_of

KINDS = ("oak", "pine", "birch")


def profile_of(dataset: Dataset, answers: Any, task: Task) -> TrainingProfile:
    rows = dataset.rows[: len(answers)]
    profile = build_profile(CONTRACT.fingerprint, CONTRACT.features, rows, answers, task=task)
    assert [found.name for found in profile.inputs] == [feature.name for feature in CONTRACT.features]
    assert profile.rows == len(rows)
    return TrainingProfile.model_validate_json(profile.model_dump_json())  # as the bundle holds it


def test_of_two_classes_the_profile_has_the_positive_ones_probability_in_equal_bins(dataset: Dataset) -> None:
    profile = profile_of(dataset, np.linspace(0, 1, 101)[:, None], binary(negative="no", positive="yes"))
    assert profile.score is not None
    assert profile.score.edges == pytest.approx(np.arange(1, 20) / 20)
    assert sum(profile.score.counts) == 101
    assert (profile.classes, profile.probabilities) == (None, ())


def test_of_several_classes_it_has_each_probability_and_counts_the_most_probable_class(dataset: Dataset) -> None:
    answers = np.array([[0.8, 0.1, 0.1]] * 500 + [[0.2, 0.7, 0.1]] * 300 + [[0.1, 0.2, 0.7]] * 200)
    profile = profile_of(dataset, answers, multiclass(*KINDS))
    assert profile.score is None
    assert profile.classes is not None
    assert (profile.classes.categories, profile.classes.counts) == (KINDS, (500, 300, 200, 0))
    assert [found.name for found in profile.probabilities] == list(KINDS)
    assert [found.mean for found in profile.probabilities] == pytest.approx(answers.mean(axis=0).tolist())
    assert drift_of(profile.classes, np.array(KINDS * 200, dtype=object)).verdict == "watch"
    assert drift_of(profile.probabilities[0], answers[:, 0]).psi == pytest.approx(0)
    assert drift_of(profile.probabilities[0], answers[:50, 0]).verdict == "moved"


@pytest.mark.parametrize("has_interval", [False, True])
def test_of_a_regression_it_has_the_value_in_bins_of_equal_share(dataset: Dataset, has_interval: bool) -> None:
    values = np.linspace(200, 400, 1000)
    answers = np.column_stack([values - 50, values, values + 70]) if has_interval else values
    profile = profile_of(dataset, answers, regression())
    assert profile.score is not None
    assert profile.score.counts == (*[100] * 10, 0)
    assert profile.score.mean == pytest.approx(300)
    assert drift_of(profile.score, values + 40).verdict == "moved"


def test_few_rows_that_have_not_moved_are_within_chance_and_raise_no_alert(dataset: Dataset) -> None:
    random = np.random.default_rng(0)
    scores = random.beta(2, 3, size=3_000)
    profile = profile_of(dataset, scores, binary(negative="no", positive="yes"))
    assert profile.score is not None
    verdicts: dict[int, list[str]] = {rows: [] for rows in (12, 60, 3_000)}
    for rows, found in verdicts.items():
        found += [drift_of(profile.score, random.beta(2, 3, size=rows)).verdict for _ in range(100)]
    assert set(verdicts[12]) | set(verdicts[60]) <= {"within chance", "steady"}
    assert verdicts[12].count("within chance") > 90  # its PSI is above 0.25
    assert set(verdicts[3_000]) == {"steady"}
    assert drift_of(profile.score, random.beta(6, 2, size=60)).verdict == "moved"
