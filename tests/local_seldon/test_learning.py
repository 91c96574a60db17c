"""The end of the demo: labels of recorded requests, and the tables that it prints."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from local_seldon.demo import versions
from local_seldon.demo.learning import explanation_table, quality_tables, write_labels
from local_seldon.demo.versions import Result, Versions
from local_seldon.errors import DemoFailed


def text(*shown: Any) -> str:
    console = Console(width=200, record=True, file=StringIO())
    for one in shown:
        console.print(one)
    return console.export_text()


def test_each_recorded_request_gets_the_label_of_its_customer(tmp_path: Path) -> None:
    columns = {"request_id": ["a", "b", None, "a"], "row": [0, 0, 0, 1], "key": ["1", "2", "1", "9"]}
    pq.write_table(pa.table(columns), tmp_path / "records-1.parquet")
    # A shadow's record of the same request.
    pq.write_table(pa.table({"request_id": ["a"], "row": [0], "key": ["1"]}), tmp_path / "records-2.parquet")
    labels = tmp_path / "labels.csv"
    assert write_labels(tmp_path, labels, truth=lambda: {"1": "Yes", "2": "No"}) == 2
    assert labels.read_text().split() == ["request_id,row,churn", "a,0,Yes", "b,0,No"]


def test_without_records_there_is_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="no prediction records"):
        write_labels(tmp_path, tmp_path / "labels.csv", truth=dict)


def test_the_tables_show_versions_challengers_and_reasons() -> None:
    measure = {"value": 0.84, "low": 0.82, "high": 0.86}
    measures = dict.fromkeys(("auc", "log_loss", "brier"), measure)
    difference = {"metric": "auc", "difference": -0.01, "low": -0.02, "high": -0.005, "verdict": "worse"}
    found = {
        "versions": [
            {"version": "1", "overall": {"labels": 1_234, "measures": measures}},
            {"version": "2", "overall": {"labels": 3, "measures": dict.fromkeys(measures, dict.fromkeys(measure))}},
        ],
        "challenges": [{"challenger": "4", "champion": "1", "comparison": {"differences": [difference]}}],
    }
    shown = text(*quality_tables(found))
    assert "1,234" in shown
    assert "0.840 (0.820 to 0.860)" in shown
    assert "too few labels" in shown
    assert "version 4" in shown
    assert "-0.020 to -0.005" in shown
    contribution = {"feature": "contract", "value": "Month-to-month", "contribution": 0.5}
    explanation = {"base_value": -1.0, "log_odds": -0.6, "contributions": [contribution], "others": -0.1}
    answer = {"customer_id": 42, "churn_probability": 0.354, "model_version": "2", "explanation": explanation}
    shown = text(explanation_table(answer))
    for words in ("customer 42 has the probability 0.354 (version 2)", "Month-to-month", "+0.500", "-0.600"):
        assert words in shown


async def test_bundles_that_another_registry_has_numbered_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Versions(tmp_path)
    for number in (1, 2, 3):
        made.bundle(number).mkdir()
        (made.bundle(number) / "bundle.json").touch()
    called: list[str] = []

    async def script(name: str, *arguments: str, **more: Any) -> Result:
        called.append(name)
        return Result(0, {"model": {"uri": "models:/churn/1"}, "metrics": {"auc": 0.85}}, "")

    monkeypatch.setattr(versions, "script", script)
    monkeypatch.setattr(versions, "_write_swapped", lambda file: None)
    await made._models(lambda line: None)
    assert (called.count("train"), called.count("import_model")) == (4, 4)
    (tmp_path / "mlflow.db").touch()
    called.clear()
    await made._models(lambda line: None)
    assert (called.count("train"), called.count("import_model")) == (1, 1)  # the challenger's bundle is still missing
