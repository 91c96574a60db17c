"""The gate on labels: files in, a verdict out; and its place in rollout.yaml."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.analysis.verdict import Verdict
from rollout.checks.check import Subject
from rollout.checks.labels import Labels
from rollout.errors import PlanError
from rollout.evidence.labels import read_labels
from rollout.plan.config import read_config
from tests.support.prediction_records import table

NOW_S = 1_800_000_000.0
SUBJECT = Subject("churn", "churn", "v1", "v2", "10 %", since_s=NOW_S)
NO_YES = ("No", "Yes")


def written(folder: Path, *, noise: float, rows: int = 2_000) -> None:
    """Records of v1 (calibrated) and v2 (with noise), and the labels of all of them."""
    random = np.random.default_rng(0)
    truth = random.random(rows) < 0.3
    score = np.clip(0.15 + 0.5 * truth + random.normal(0, 0.1, rows), 0.01, 0.99)
    is_canary = np.arange(rows) % 3 == 0
    score = np.where(is_canary, np.clip(score + noise * random.normal(size=rows), 0, 1), score)
    arms = ["v2" if mine else "v1" for mine in is_canary]
    given = [(NOW_S - rows + n, f"r-{n}", arm, float(score[n])) for n, arm in enumerate(arms)]
    pq.write_table(table(given), folder / "records-1.parquet")
    labels(folder, [(f"r-{n}", "Yes" if one else "No") for n, one in enumerate(truth)])


def labels(folder: Path, rows: Sequence[tuple[str, ...]], head: Sequence[str] = ("request_id", "label")) -> None:
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])


def gate(folder: Path, **more: object) -> Labels:
    values = {"records": str(folder), "labels": f"file://{folder}/labels.csv", "classes": NO_YES}
    return Labels.model_validate({**values, **more})


def verdict(check: Labels, subject: Subject = SUBJECT) -> tuple[Verdict, str]:
    (result,) = check.ask(subject, lambda: False)
    return result.verdict, result.reason


def test_a_canary_as_good_passes_and_a_worse_one_fails(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder, noise in ((good, 0.0), (bad, 0.5)):
        folder.mkdir()
        written(folder, noise=noise)
    assert verdict(gate(good))[0] is Verdict.PASS
    assert verdict(gate(bad))[0] is Verdict.FAIL
    assert verdict(gate(bad, loss="log_loss"))[0] is Verdict.FAIL


def test_labels_that_have_not_come_are_no_data(tmp_path: Path) -> None:
    written(tmp_path, noise=0.0)
    labels(tmp_path, [("r-1", ""), ("unknown", "Yes")])
    assert verdict(gate(tmp_path)) == (Verdict.NO_DATA, "no labelled rows of both versions yet")
    (tmp_path / "labels.csv").unlink()
    found, reason = verdict(gate(tmp_path))
    assert found is Verdict.NO_DATA
    assert "labels.csv does not exist; labels are expected there" in reason


def test_records_older_than_the_rollout_do_not_count(tmp_path: Path) -> None:
    written(tmp_path, noise=0.0)
    assert verdict(gate(tmp_path, look_back_s=10.0))[0] is not Verdict.PASS


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ([("r-1", "perhaps")], ("request_id", "label"), "a label is 'perhaps'; allowed: No, Yes, or blank"),
        ([("r-1", "Yes")], ("id", "label"), "has no column request_id; its columns: id, label"),
        ([("r-1", "Yes", "x")], ("request_id", "label", "row"), "line 2: row is 'x'; allowed: an integer"),
    ],
)
def test_labels_that_cannot_be_read_are_an_error(
    tmp_path: Path, rows: list[tuple[str, str]], head: tuple[str, ...], message: str
) -> None:
    written(tmp_path, noise=0.0)
    labels(tmp_path, rows, head)
    found, reason = verdict(gate(tmp_path))
    assert found is Verdict.ERROR
    assert message in reason


def of_contracts(folder: Path, stable: str, canary: str, *, labelled: str | None = None) -> None:
    """The same records, of contracts; and labels that name one, where `labelled` is given."""
    written(folder, noise=0.0)
    file = folder / "records-1.parquet"
    records = pq.read_table(file)
    names = [stable if arm == "v1" else canary for arm in records["predictor"].to_pylist()]
    place = records.column_names.index("contract")
    pq.write_table(records.set_column(place, "contract", pa.array(names, pa.string())), file)
    if labelled is not None:
        with (folder / "labels.csv").open(newline="") as stream:
            _, *rows = csv.reader(stream)
        with (folder / "labels.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("request_id", "label", "contract"), *([*row, labelled] for row in rows)])


@pytest.mark.parametrize(
    ("stable", "canary", "labelled", "allowed", "message"),
    [
        ("aa", "bb", None, (), "the records are of several contracts: v1 of aa, v2 of bb; "),
        ("aa", "", None, (), "the records are of several contracts: v1 of aa, v2 of none; "),
        ("aa", "aa", "bb", (), "labels.csv has labels of contract bb; the records are of aa"),
        ("aa", "aa", None, ("bb",), "records of contracts that are not allowed: v1 of aa, v2 of aa; `contracts`: bb"),
        ("aa", "bb", "cc", ("aa", "bb"), "labels.csv has labels of contract cc; `contracts`: aa, bb"),
        ("", "", "aa", (), "labels.csv has labels of contract aa; the records are of none"),
    ],
)
def test_records_and_labels_of_another_contract_are_an_error(
    tmp_path: Path, stable: str, canary: str, labelled: str | None, allowed: tuple[str, ...], message: str
) -> None:
    of_contracts(tmp_path, stable, canary, labelled=labelled)
    found, reason = verdict(gate(tmp_path, contracts=allowed))
    assert found is Verdict.ERROR
    assert message in reason


def test_contracts_that_are_named_are_compared(tmp_path: Path) -> None:
    of_contracts(tmp_path, "aa", "bb", labelled="aa")  # the canary's contract has one feature more
    assert verdict(gate(tmp_path, contracts=("aa", "bb")))[0] is Verdict.PASS
    of_contracts(tmp_path, "aa", "aa", labelled="")  # a label need not name one
    assert verdict(gate(tmp_path))[0] is Verdict.PASS


def test_labels_of_several_contracts_are_refused_before_any_record_is_found(tmp_path: Path) -> None:
    written(tmp_path, noise=0.0)
    labels(tmp_path, [("x-1", "Yes", "aa"), ("x-2", "No", "bb")], ("request_id", "label", "contract"))
    found, reason = verdict(gate(tmp_path))
    assert found is Verdict.ERROR
    assert "labels.csv has labels of several contracts: aa, bb" in reason


def test_the_first_label_of_a_request_counts(tmp_path: Path) -> None:
    written(tmp_path, noise=0.0)
    before = verdict(gate(tmp_path))
    with (tmp_path / "labels.csv").open("a", newline="") as stream:
        csv.writer(stream).writerows([(f"r-{number}", "Yes") for number in range(2_000)])
    assert verdict(gate(tmp_path)) == before


def test_a_line_that_is_still_being_written_is_not_judged(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\nr-1,12.5\nr-2,3")
    assert read_labels(str(file), "label").labels == {("r-1", 0): "12.5"}
    with file.open("a") as stream:
        stream.write("7.5\n")
    assert read_labels(str(file), "label").labels == {("r-1", 0): "12.5", ("r-2", 0): "37.5"}


def test_the_gate_is_asked_in_every_step_with_requests_and_strict(tmp_path: Path) -> None:
    plan = tmp_path / "rollout.yaml"
    text = "steps: [10, 100]\nlabels: {records: /var/records, labels: /var/labels.csv, classes: ['No', 'Yes']}\n"
    plan.write_text(text)
    steps = read_config(plan, {}).plan.steps
    assert [[check.name for check in step.checks] for step in steps] == [["labels"], ["labels"]]
    for wrong, message in (
        ("classes: [No, Yes]", "quote them: YAML reads No and Yes as false and true"),
        ("classes: ['No']", "brier needs two classes or more"),
        ("classes: ['No', 'No']", "two classes have the same name"),
        ("classes: ['No', 'Yes'], loss: absolute", "absolute needs largest_error, and no classes"),
        ("classes: ['No', 'Yes'], speed: 1", "there is no such key"),
        ("classes: ['No', 'Yes'], contracts: ['']", "at least 1 character"),
        ("classes: ['No', 'Yes'], limits: {alpha: 0}", "greater than 0"),
    ):
        plan.write_text(text.replace("classes: ['No', 'Yes']", wrong))
        with pytest.raises(PlanError, match=message):
            read_config(plan, {})
