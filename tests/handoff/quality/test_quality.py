"""Late labels join the predictions that they belong to, and what is measured of them is right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, mean_absolute_error, r2_score, roc_auc_score

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import decode_row
from custom_runtime.records.record import key_hash
from handoff.dataset import Dataset
from handoff.errors import DataError
from handoff.quality.drift import build_profile, drift_of
from handoff.quality.exposition import render_metrics
from handoff.quality.joining import join, read_labels
from handoff.quality.measuring import measure_quality
from handoff.quality.page import page
from handoff.quality.scoring import class_qualities, measures

START = pd.Timestamp("2026-10-01", tz="UTC")
HORIZON = timedelta(days=30)


def records(rows: int = 400, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """One prediction per customer and hour, with well calibrated scores."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "time": START + pd.to_timedelta(np.arange(rows), unit="h"),
            "request_id": [f"r-{number}" for number in range(rows)],
            "inference_id": None,
            "row": 0,
            "model": "churn",
            "version": np.where(np.arange(rows) % 2, "8", "7"),
            "key": [str(number) for number in range(rows)],
            "key_hash": None,
            "score": random.beta(2, 3, size=rows),
            "source": "store",
            "features_time": START - pd.Timedelta(hours=1) + pd.to_timedelta(np.arange(rows), unit="h"),
            "features": None,
            "challengers": None,
            "contract": CONTRACT.fingerprint,
        }
    )
    return frame.assign(**columns)


def truths(frame: pd.DataFrame, seed: int = 1) -> Any:
    return np.random.default_rng(seed).random(len(frame)) < frame["score"].to_numpy()


def written(path: Path, labels: pd.DataFrame) -> pd.DataFrame:
    labels.to_csv(path, index=False)
    return read_labels(path)


def by_request(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"request_id": frame["request_id"], "churn": np.where(truths(frame), "Yes", "No")})


def test_labels_join_by_request_id_and_by_the_id_of_a_v2_request(tmp_path: Path) -> None:
    frame = records(4, request_id=["a", "b", None, None], inference_id=[None, "x", "c", "c"], row=[0, 0, 0, 1])
    labels = pd.DataFrame({"request_id": ["a", "x", "c", "c", "gone"], "row": [0, 0, 0, 1, 0], "churn": list("10101")})
    joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    assert joined.records["truth"].tolist() == [1, 0, 1, 0]
    assert (joined.labels, joined.unmatched, joined.by) == (5, 1, "request id")


def test_a_label_belongs_to_the_last_prediction_before_it_and_within_the_horizon(tmp_path: Path) -> None:
    frame = records(3, key=["1", "1", "2"], time=[START, START + pd.Timedelta(days=2), START], version="7")
    labels = pd.DataFrame(
        {
            "customerID": [1, 1, 2, 3],
            "time": ["2026-10-02", "2026-10-04", "2026-12-24", "2026-10-02"],
            "Churn": ["Yes", "No", "Yes", "Yes"],
        }
    )
    joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    assert joined.records[["time", "truth"]].to_numpy().tolist() == [
        [START, 1],
        [START + pd.Timedelta(days=2), 0],
    ]
    assert (joined.unmatched, joined.by) == (2, "key and time")


def test_of_each_version_the_last_prediction_before_a_label_has_it(tmp_path: Path) -> None:
    # Customer 1 was answered by version 7 twice; the first time a shadow, version 8, recorded it a little later.
    moments = [START, START + pd.Timedelta(seconds=1), START + pd.Timedelta(days=2), START]
    frame = records(4, key=["1", "1", "1", "2"], version=["7", "8", "7", "7"], time=moments)
    labels = pd.DataFrame({"customer_id": [1, 2, 3], "time": "2026-10-10", "churn": ["Yes", "No", "No"]})
    joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    assert sorted(joined.records["request_id"]) == ["r-1", "r-2", "r-3"]
    assert joined.records.set_index("request_id")["truth"].to_dict() == {"r-1": 1, "r-2": 1, "r-3": 0}
    assert (joined.labels, joined.unmatched, joined.superseded) == (3, 1, 0)


def test_a_shadow_has_its_own_metrics_by_either_join(tmp_path: Path) -> None:
    champion = records(100, version="7")
    shadow = champion.assign(
        version="8", score=1 - champion["score"], time=champion["time"] + pd.Timedelta(milliseconds=3)
    )
    frame = pd.concat([champion, shadow]).sort_values("time", kind="stable").reset_index(drop=True)
    by_id = by_request(champion)
    by_time = pd.DataFrame({"customer_id": champion["key"], "time": "2026-10-10", "churn": by_id["churn"]})
    for labels in (by_id, by_time):
        joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
        quality = measure_quality(frame, joined, profile=None, made=datetime(2026, 11, 1, tzinfo=UTC))
        own, other = quality.versions
        assert (own.version, own.overall.labels, other.version, other.overall.labels) == ("7", 100, "8", 100)
        aucs = [one.overall.measures["auc"].value for one in (own, other)]
        assert sum(value for value in aucs if value is not None) == pytest.approx(1)
        assert (quality.labels, quality.unmatched, quality.superseded) == (100, 0, 0)


def test_a_label_that_another_one_replaced_is_counted_once_for_all_versions(tmp_path: Path) -> None:
    frame = records(2, key="1", version=["7", "8"])
    labels = pd.DataFrame({"customer_id": [1, 1], "time": ["2026-10-02", "2026-10-05"], "churn": ["No", "Yes"]})
    joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    assert (joined.records["truth"].tolist(), joined.superseded) == ([1, 1], 1)


def test_a_later_label_for_the_same_prediction_counts(tmp_path: Path) -> None:
    labels = pd.DataFrame({"customer_id": [0, 0], "time": ["2026-10-02", "2026-10-05"], "churn": ["No", "Yes"]})
    joined = join(records(1), written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    assert (joined.records["truth"].tolist(), joined.superseded) == ([1], 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"request_id": ["a"], "churn": ["perhaps"]}, "'perhaps'; allowed: No, Yes, or blank"),
        ({"request_id": ["a"]}, "no column 'churn'"),
        ({"request_id": ["a"], "churn": ["Yes"], "contract": ["0123"]}, "of contract 0123; this is "),
        ({"customer_id": ["1"], "churn": ["Yes"]}, "neither 'request_id' nor both 'customer_id' and 'time'"),
        ({"customer_id": ["1"], "time": ["soon"], "churn": ["Yes"]}, "allowed: ISO 8601"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, labels: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        join(records(3), written(tmp_path / "labels.csv", pd.DataFrame(labels)), horizon=HORIZON)


SALT = "a salt of the tests"


def some_hashed(frame: pd.DataFrame, hashed: Any) -> pd.DataFrame:
    """The same records, those of `hashed` as a pod with SERVING_RECORD_KEY=hashed writes them."""
    hashes: Any = [key_hash(SALT, key) if one else None for key, one in zip(frame["key"], hashed, strict=True)]
    return frame.assign(key=frame["key"].where(~np.asarray(hashed)), key_hash=hashes)


def by_key(frame: pd.DataFrame, at: str = "2026-12-01") -> pd.DataFrame:
    return pd.DataFrame({"customer_id": frame["key"], "time": at, "churn": np.where(truths(frame), "Yes", "No")})


def test_records_with_plain_and_with_hashed_keys_are_joined_each_by_its_own(tmp_path: Path) -> None:
    plain = records(60, version="7")
    mixed = some_hashed(plain, np.arange(60) >= 20)
    labels = written(tmp_path / "labels.csv", by_key(plain))
    whole, found = (join(frame, labels, horizon=timedelta(days=90), salt=SALT) for frame in (plain, mixed))
    assert found.records["request_id"].tolist() == whole.records["request_id"].tolist()
    assert found.records["truth"].tolist() == whole.records["truth"].tolist()
    assert (found.unmatched, found.superseded, found.notes) == (0, 0, ())
    with pytest.raises(DataError, match=r"40 of 60 records have hashed keys; give the salt .* with --salt-file"):
        join(mixed, labels, horizon=HORIZON)


def test_a_customer_with_a_plain_and_a_hashed_record_is_one_customer(tmp_path: Path) -> None:
    # The pod was changed from plain keys to hashed ones between the two predictions: the second has the label.
    frame = some_hashed(records(2, key="1", version="7"), [False, True])
    labels = written(
        tmp_path / "labels.csv", pd.DataFrame({"customer_id": [1], "time": "2026-10-10", "churn": ["Yes"]})
    )
    joined = join(frame, labels, horizon=HORIZON, salt=SALT)
    assert joined.records["request_id"].tolist() == ["r-1"]
    # By request id both have one, and still are no independent evidence: with the salt, intervals know it.
    twice = pd.DataFrame({"request_id": ["r-0", "r-1"], "churn": ["Yes", "Yes"]})
    joined = join(frame, written(tmp_path / "twice.csv", twice), horizon=HORIZON, salt=SALT)
    assert joined.records["customer"].nunique() == 1


def test_predictions_that_no_label_can_find_are_named_with_the_reason(tmp_path: Path) -> None:
    frame = records(60, version="7")
    keyless = frame.assign(key=frame["key"].where(np.arange(60) >= 10))
    joined = join(keyless, written(tmp_path / "keys.csv", by_key(frame)), horizon=timedelta(days=90))
    assert (len(joined.records), joined.unmatched) == (50, 10)
    assert joined.notes == (
        "10 of 60 predictions name no key (SERVING_RECORD_KEY=omitted), so no label by key and time can belong "
        "to them.",
    )
    nameless = frame.assign(request_id=frame["request_id"].where(np.arange(60) >= 10))
    labels = written(tmp_path / "ids.csv", by_request(frame))
    joined = join(nameless, labels, horizon=HORIZON)
    assert joined.notes == (
        "10 of 60 predictions have no request id (no x-request-id, no V2 id), so no label by request id can belong "
        "to them.",
    )
    quality = measure_quality(nameless, joined, profile=None, made=datetime(2026, 11, 1, tzinfo=UTC))
    assert quality.notes == joined.notes
    assert "10 of 60 predictions have no request id" in page(quality)


def test_a_salt_that_is_another_one_is_said(tmp_path: Path) -> None:
    frame = records(60, version="7")
    labels = written(tmp_path / "labels.csv", by_key(frame))
    wrong = r"none of the 60 hashed keys .* is that of a label: is the salt the one of SERVING_RECORD_SALT\?"
    with pytest.raises(DataError, match=wrong):
        join(some_hashed(frame, [True] * 60), labels, horizon=HORIZON, salt="another salt, wrong")
    mixed = join(
        some_hashed(frame, np.arange(60) >= 40), labels, horizon=timedelta(days=90), salt="another salt, wrong"
    )
    assert len(mixed.records) == 40
    (note,) = mixed.notes
    assert note.startswith("None of the 20 hashed keys in the records is that of a label: is the salt the one of")


def test_labels_without_a_time_or_with_a_row_that_is_none_are_refused(tmp_path: Path) -> None:
    blank = pd.DataFrame({"customer_id": [1, 2], "time": ["2026-10-10", ""], "churn": ["Yes", "No"]})
    with pytest.raises(DataError, match="1 of 2 labels has no 'time'; allowed: ISO 8601"):
        join(records(3), written(tmp_path / "times.csv", blank), horizon=HORIZON)
    row = pd.DataFrame({"request_id": ["r-0", "r-1"], "row": ["", "first"], "churn": ["Yes", "No"]})
    with pytest.raises(DataError, match="a row is 'first'; allowed: an integer from 0 on, or blank"):
        join(records(3), written(tmp_path / "rows.csv", row), horizon=HORIZON)
    joined = join(records(3), written(tmp_path / "row.csv", row.assign(row=["", "0"])), horizon=HORIZON)
    assert (len(joined.records), joined.unmatched) == (2, 0)  # a blank row is the first


def test_the_metrics_are_those_of_scikit_learn_and_their_intervals_hold_them() -> None:
    frame = records(800)
    truth, scores = truths(frame).astype(np.int64), frame["score"].to_numpy()
    found = measures("binary", truth, scores[:, None], frame["key"])
    expected = {
        "auc": roc_auc_score(truth, scores),
        "log_loss": log_loss(truth, scores),
        "brier": brier_score_loss(truth, scores),
        "calibration": truth.mean() - scores.mean(),
    }
    for name, value in expected.items():
        measure = found[name]
        assert measure.value == pytest.approx(value, abs=1e-6)
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low < value < measure.high
    assert found["lift"].value is not None
    assert found["lift"].value > 1.2


def holds(measure: Any, value: float) -> None:
    assert measure.value == pytest.approx(value, abs=1e-6)
    assert measure.low < value < measure.high


def test_of_several_classes_each_is_measured_by_itself() -> None:
    random = np.random.default_rng(0)
    chances = random.dirichlet([1, 1, 1], size=600)
    truth = np.array([random.choice(3, p=row) for row in chances])
    keys = np.arange(600)
    found = measures("multiclass", truth, chances, keys)
    holds(found["accuracy"], accuracy_score(truth, chances.argmax(axis=1)))
    holds(found["log_loss"], log_loss(truth, chances))
    holds(found["macro_auc"], roc_auc_score(truth, chances, multi_class="ovr"))
    oak, pine, rare = class_qualities(("oak", "pine", "elm"), truth, chances, keys, fewest=300)
    assert [one.labels for one in (oak, pine, rare)] == [int((truth == place).sum()) for place in range(3)]
    assert oak.measures["log_loss"].value is None  # too few labels
    (oak, *_) = class_qualities(("oak", "pine", "elm"), truth, chances, keys, fewest=30)
    own = truth == 0
    holds(oak.measures["log_loss"], float(-np.log(chances[own, 0]).mean()))
    holds(oak.measures["accuracy"], float((chances[own].argmax(axis=1) == 0).mean()))
    holds(oak.measures["auc"], roc_auc_score(own, chances[:, 0]))
    holds(oak.measures["calibration"], float(own.mean() - chances[:, 0].mean()))


def test_a_regression_is_measured_by_its_errors() -> None:
    random = np.random.default_rng(0)
    predicted = random.uniform(100, 400, size=500)
    truth = predicted + random.normal(5, 20, size=500)
    found = measures("regression", truth, predicted[:, None], np.arange(500))
    holds(found["mae"], mean_absolute_error(truth, predicted))
    holds(found["rmse"], float(((truth - predicted) ** 2).mean() ** 0.5))
    holds(found["r2"], r2_score(truth, predicted))
    holds(found["calibration"], float((truth - predicted).mean()))
    assert found["coverage"].value is None
    ends = measures("regression", truth, np.column_stack([predicted - 20, predicted, predicted + 30]), np.arange(500))
    holds(ends["coverage"], float(((truth >= predicted - 20) & (truth <= predicted + 30)).mean()))
    assert ends["mae"].value == found["mae"].value
    constant = measures("regression", np.full(50, 3.0), np.full((50, 1), 3.0), np.arange(50))
    assert constant["r2"].value is None  # nothing varies that could be explained


def test_rows_of_one_customer_are_no_independent_evidence() -> None:
    frame = records(300)
    truth, scores = truths(frame).astype(np.int64), frame["score"].to_numpy()
    once = measures("binary", truth, scores[:, None], frame["key"])["log_loss"]
    copied = measures("binary", np.tile(truth, 10), np.tile(scores[:, None], (10, 1)), np.tile(frame["key"], 10))[
        "log_loss"
    ]
    assert once.low is not None
    assert once.high is not None
    assert copied.low is not None
    assert copied.high is not None
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.25)


def test_a_check_measures_versions_periods_challengers_segments_drift_and_freshness(
    tmp_path: Path, dataset: Dataset
) -> None:
    rows = dataset.rows[:600]
    frame = records(600, features=[decode_row(row) for row in rows])
    truth = truths(frame)
    # The model is wrong about customers with fiber, and the challenger knows.
    fiber = np.array([features["internet_service"] == "Fiber optic" for features in frame["features"]])
    truth = np.where(fiber, np.random.default_rng(5).random(600) > frame["score"], truth)
    better = np.where(fiber, 1 - frame["score"], frame["score"])
    challengers: Any = [[{"version": "9", "score": float(score), "scores": None}] for score in better]
    frame["challengers"] = challengers
    labels = pd.DataFrame({"request_id": frame["request_id"], "churn": np.where(truth, "Yes", "No")})
    joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    profile = build_profile(
        CONTRACT.fingerprint, CONTRACT.features, dataset.rows[:600], frame["score"].to_numpy(), task=CONTRACT.task
    )
    quality = measure_quality(frame, joined, profile=profile, made=datetime(2026, 11, 1, tzinfo=UTC))
    assert [version.version for version in quality.versions] == ["7", "8"]
    assert [len(version.periods) for version in quality.versions] == [4, 4]
    assert sum(period.labels for period in quality.versions[0].periods) == 300
    for challenge in quality.challenges:
        assert (challenge.challenger, challenge.comparison.rows) == ("9", 300)
        assert {difference.verdict for difference in challenge.comparison.differences} == {"better"}
    assert ("internet_service", "Fiber optic") in {(found.feature, found.segment) for found in quality.failing}
    assert "log_loss" in {found.metric for found in quality.failing}
    assert all(found.low > 0 or found.high < 0 for found in quality.failing)
    assert {found.name for found in quality.drift["7"]} == {"score", *(f.name for f in CONTRACT.features)}
    assert all(found.verdict != "moved" for found in quality.drift["7"])
    assert [fresh.median_s for fresh in quality.freshness] == [3600.0, 3600.0]
    html = page(quality)
    assert "http" not in html.replace("http-equiv", "")
    for words in ("Challenger 9 beside version 7", "Fiber optic", "Drift against the training profile", "Lift"):
        assert words in html
    text = render_metrics(quality).decode()
    assert 'serving_quality{bound="low",metric="auc",model="churn",version="7"}' in text
    assert 'serving_quality_labels{model="churn",version="8"} 300.0' in text


def segmented(dataset: Dataset, rows: int) -> pd.DataFrame:
    """A model that is right everywhere, and surer of customers with a contract than of those without one."""
    features = [decode_row(row) for row in dataset.rows[:rows]]
    risky = np.array([one["contract"] == "Month-to-month" for one in features])
    scores = np.random.default_rng(7).beta(np.where(risky, 4, 1), np.where(risky, 5, 12))
    return records(rows, features=features, version="7", score=scores)


def failing_of(frame: pd.DataFrame, truth: Any, path: Path) -> Any:
    labels = pd.DataFrame({"request_id": frame["request_id"], "churn": np.where(truth, "Yes", "No")})
    joined = join(frame, written(path, labels), horizon=HORIZON)
    return measure_quality(frame, joined, profile=None, made=datetime(2026, 11, 1, tzinfo=UTC)).failing


def test_a_segment_that_is_only_harder_to_predict_does_not_fail(tmp_path: Path, dataset: Dataset) -> None:
    frame = segmented(dataset, 3_000)
    assert failing_of(frame, truths(frame), tmp_path / "labels.csv") == ()


def test_a_segment_whose_customers_stay_though_they_should_leave_fails(tmp_path: Path, dataset: Dataset) -> None:
    frame = segmented(dataset, 3_000)
    senior = np.array([features["senior_citizen"] == "Yes" for features in frame["features"]])
    assert senior.sum() > 300
    truth = truths(frame) & ~(senior & (np.random.default_rng(9).random(len(frame)) < 0.6))  # a campaign kept them
    found = failing_of(frame, truth, tmp_path / "labels.csv")
    (own,) = [one for one in found if (one.feature, one.segment) == ("senior_citizen", "Yes")]
    assert own.metric == "calibration"
    assert own.value == pytest.approx(truth[senior].mean())
    assert own.expected == pytest.approx(frame["score"].to_numpy()[senior].mean())
    assert own.difference == pytest.approx(own.value - own.expected)
    assert own.low < own.difference < own.high < 0


def test_predictions_for_one_customer_are_no_independent_evidence_of_a_failing_segment(
    tmp_path: Path, dataset: Dataset
) -> None:
    frame = segmented(dataset, 300)
    truth = truths(frame, seed=4)
    # Each customer was scored twenty times: by rows, chance looks like a failure.
    many = pd.concat([frame] * 20, ignore_index=True).assign(request_id=[f"r-{number}" for number in range(6_000)])
    assert failing_of(many, np.tile(truth, 20), tmp_path / "many.csv") == ()
    strangers = many.assign(key=[str(number) for number in range(6_000)])
    assert failing_of(strangers, np.tile(truth, 20), tmp_path / "strangers.csv")


def test_challengers_are_compared_with_the_champion_and_with_each_other(tmp_path: Path) -> None:
    frame = records(400, version="7")
    random = np.random.default_rng(3)
    noise = random.random(400)
    # Version 9 answers at random, version 8 as the champion does; a bundle of the champion's own version adds nothing.
    challengers: Any = [
        [
            {"version": "8", "score": score, "scores": None},
            {"version": "9", "score": other, "scores": None},
            {"version": "7", "score": score, "scores": None},
        ]
        for score, other in zip(frame["score"], noise, strict=True)
    ]
    frame["challengers"] = challengers
    joined = join(frame, written(tmp_path / "labels.csv", by_request(frame)), horizon=HORIZON)
    quality = measure_quality(frame, joined, profile=None, made=datetime(2026, 11, 1, tzinfo=UTC))
    verdicts = {
        (one.champion, one.challenger): {found.verdict for found in one.comparison.differences}
        for one in quality.challenges
    }
    assert verdicts == {
        ("7", "8"): {"no difference shown"},
        ("7", "9"): {"worse"},
        ("8", "9"): {"worse"},
    }


def test_too_few_labels_are_no_measurement(tmp_path: Path) -> None:
    frame = records(10)
    joined = join(frame, written(tmp_path / "labels.csv", by_request(frame)), horizon=HORIZON)
    with pytest.raises(DataError, match="10 of 10 labels belong to a prediction; at least 30 are needed"):
        measure_quality(frame, joined, profile=None, made=datetime(2026, 11, 1, tzinfo=UTC))


def test_a_version_with_few_labels_or_none_is_shown_and_not_measured(tmp_path: Path) -> None:
    version = np.where(np.arange(120) < 100, "7", np.where(np.arange(120) < 110, "8", "10"))
    frame = records(120, version=version)
    labels = by_request(frame)[:105]
    joined = join(frame, written(tmp_path / "labels.csv", labels), horizon=HORIZON)
    quality = measure_quality(frame, joined, profile=None, made=datetime(2026, 11, 1, tzinfo=UTC), period="1D")
    assert [(one.version, one.predictions, one.overall.labels) for one in quality.versions] == [
        ("7", 100, 100),
        ("8", 10, 5),
        ("10", 10, 0),
    ]
    assert {measure.value for one in quality.versions[1:] for measure in one.overall.measures.values()} == {None}
    html = page(quality)
    assert "Fewer than 30 labels measure nothing: version 8, 10." in html
    assert "nan" not in html.lower()
    assert "no segments are compared" in html
    assert "None was found" not in html
    text = render_metrics(quality).decode()
    assert 'serving_quality_labels{model="churn",version="10"} 0.0' in text
    assert 'metric="auc",model="churn",version="8"' not in text


def test_drift_tells_a_moved_input_from_a_steady_one(dataset: Dataset) -> None:
    scores = np.zeros(len(dataset.rows))
    profile = build_profile(CONTRACT.fingerprint, CONTRACT.features, dataset.rows, scores, task=CONTRACT.task)
    inputs = {found.name: found for found in profile.inputs}
    half = [decode_row(row) for row in dataset.rows[::2]]
    for name, given in inputs.items():
        assert (
            drift_of(given, np.array([row[name] for row in half], dtype=object if given.categories else float)).psi
            < 0.02
        )
    tenure = np.array([row["tenure_months"] for row in half], dtype=float)
    moved = drift_of(inputs["tenure_months"], tenure + 24)
    assert moved.verdict == "moved"
    assert moved.effect == pytest.approx(24 / dataset.rows[:, 4].std(), abs=0.1)
    lost = drift_of(inputs["contract"], np.array([None] * 40 + ["Two year"] * 60, dtype=object))
    assert (lost.verdict, lost.missing) == ("moved", 0.4)
    assert lost.moved == "share of Month-to-month 55.0% to 0.0%"
    numbers = np.array([row["tenure_months"] for row in half], dtype=float)
    gone = drift_of(inputs["tenure_months"], np.where(np.arange(len(numbers)) % 2, np.nan, numbers))
    assert (gone.verdict, gone.moved) == ("moved", "missing 0.0% to 50.0%")  # and not its mean, which is as it was
    assert gone.effect == pytest.approx(0.5, abs=0.001)
