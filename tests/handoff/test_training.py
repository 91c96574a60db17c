import dataclasses
from typing import Any

import numpy as np
import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import encode_table
from handoff.dataset import Dataset
from handoff.errors import TrainingRefused
from handoff.training import FLAVORS, TrainedModel, digest_of, train

FLOOR = CONTRACT.floor["auc"]


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_held_out_auc_is_at_least_what_is_promised(trained: dict[str, TrainedModel], flavor: Any) -> None:
    metrics = trained[flavor].metrics
    assert metrics["auc"] >= FLOOR >= 0.83
    assert metrics["brier"] < 0.15
    assert metrics["log_loss"] < 0.45


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_auc_does_not_hang_on_one_lucky_split(dataset: Dataset, flavor: Any, seed: int) -> None:
    assert train(dataset, flavor, seed=seed).metrics["auc"] >= FLOOR


@pytest.mark.parametrize("flavor", FLAVORS)
def test_the_same_seed_gives_the_same_model(dataset: Dataset, trained: dict[str, TrainedModel], flavor: Any) -> None:
    again = train(dataset, flavor)
    np.testing.assert_array_equal(
        again.model.predict_proba(dataset.rows), trained[flavor].model.predict_proba(dataset.rows)
    )


def test_defaults_are_contract_values_for_every_feature(trained: dict[str, TrainedModel]) -> None:
    defaults = trained["xgboost"].defaults
    assert list(defaults) == [feature.name for feature in CONTRACT.features]
    assert encode_table({name: [value] for name, value in defaults.items()}).shape == (1, len(CONTRACT.features))
    assert defaults["contract"] == "Month-to-month"  # 55 % of the customers
    assert 20 < float(str(defaults["tenure_months"])) < 40
    assert defaults["monthly_charges"] == 70.2  # not 70.19999694824219


def test_shuffled_labels_are_refused_with_the_auc(dataset: Dataset) -> None:
    labels = np.random.default_rng(0).permutation(dataset.labels)
    with pytest.raises(TrainingRefused, match=r"held-out auc is 0\.[45]\d+ on 1409 rows .* at least 0\.83 is wanted"):
        train(dataclasses.replace(dataset, labels=labels), "sklearn")


def test_a_table_of_one_class_is_refused(dataset: Dataset) -> None:
    labels = np.zeros_like(dataset.labels)
    with pytest.raises(TrainingRefused, match="7043 'No', 0 'Yes' rows; at least 5 of each"):
        train(dataclasses.replace(dataset, labels=labels), "xgboost")


def test_the_final_model_has_seen_all_rows_and_the_metrics_have_not(
    dataset: Dataset, trained: dict[str, TrainedModel]
) -> None:
    refitted = trained["sklearn"]
    kept = train(dataset, "sklearn", refit=False)
    assert (refitted.refitted, kept.refitted) == (True, False)
    assert refitted.metrics == kept.metrics
    held_out = refitted.reference.held_out
    assert held_out is not None
    assert held_out.sum() == 1409
    own = kept.model.predict_proba(dataset.rows[held_out])[:, 1:]
    np.testing.assert_array_equal(refitted.reference.held_out_answers, own)
    assert np.abs(refitted.model.predict_proba(dataset.rows[held_out])[:, 1:] - own).max() > 1e-6


def test_the_digest_is_of_the_rows_and_the_labels(dataset: Dataset) -> None:
    digest = digest_of(dataset.rows, dataset.labels)
    assert digest_of(dataset.rows.copy(), dataset.labels.copy()) == digest
    assert digest_of(dataset.rows, 1 - dataset.labels) != digest
    assert digest_of(dataset.rows[:, ::-1], dataset.labels) != digest
