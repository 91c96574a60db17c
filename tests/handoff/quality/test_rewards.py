"""Labels become the counts that a router reads, and the router chooses by them."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from commands.main import app
from custom_runtime.active import CONTRACT
from custom_runtime.graph.routing import Rewards, RouteParameters, choose
from custom_runtime.records.record import SCHEMA
from handoff.errors import DataError
from handoff.quality.checking import read_joined
from handoff.quality.rewards import reward_counts, write_rewards

START = pd.Timestamp("2026-10-01", tz="UTC")
CHILDREN = ["churn-a", "churn-b"]


def directories(folder: Path, rows: int = 400) -> tuple[Path, Path]:
    """Records of two branches: `churn-a` answers well, `churn-b` at random. And their labels."""
    generator = np.random.default_rng(0)
    truth = generator.random(rows) < 0.4
    good = np.clip(0.25 + 0.5 * truth + generator.normal(0, 0.1, rows), 0.01, 0.99)
    is_first = np.arange(rows) % 2 == 0
    columns: dict[str, Any] = {
        "time": [START + pd.Timedelta(minutes=minute) for minute in range(rows)],
        "request_id": [f"r-{number}" for number in range(rows)],
        "row": [0] * rows,
        "model": np.where(is_first, *CHILDREN).tolist(),
        "predictor": ["v1"] * rows,
        "version": ["7"] * rows,
        "key": [str(number) for number in range(rows)],
        "score": np.where(is_first, good, generator.random(rows)).tolist(),
        "source": ["store"] * rows,
        "contract": [CONTRACT.fingerprint] * rows,
    }
    table = pa.table({name: columns.get(name, [None] * rows) for name in SCHEMA.names}, schema=SCHEMA)
    records = folder / "records"
    records.mkdir()
    pq.write_table(table, records / "records-20261001T000000Z-host-1-000001.parquet")
    labels = folder / "labels.csv"
    given = pd.DataFrame({"request_id": columns["request_id"], CONTRACT.label: np.where(truth, "Yes", "No")})
    given.to_csv(labels, index=False)
    return records, labels


def test_the_command_writes_rewards_by_which_the_router_prefers_the_better_child(tmp_path: Path) -> None:
    records, labels = directories(tmp_path)
    rewards = tmp_path / "rewards.json"
    words = ["quality", "--records", records, "--labels", labels, "--output", tmp_path / "page", "--rewards", rewards]
    done = CliRunner().invoke(app, [*map(str, words), "--child", "churn-a", "--child", "churn-b"])
    assert done.exit_code == 0, done.output
    parameters = RouteParameters.model_validate(
        {"route": "thompson", "children": '["churn-a", "churn-b"]', "rewards": str(rewards)}
    )
    counts = Rewards(rewards, parameters.children).refresh()
    assert [counts[name].good + counts[name].bad for name in CHILDREN] == [pytest.approx(200), pytest.approx(200)]
    generator = random.Random(1)
    chosen = [choose({}, parameters, counts, generator) for _ in range(300)]
    assert chosen.count(0) > 290
    # Both branches have version 7: the page tells them apart by their model.
    assert "churn-a 7" in (tmp_path / "page" / "quality.html").read_text()


def test_a_child_without_labels_is_still_tried(tmp_path: Path) -> None:
    records, labels = directories(tmp_path)
    joined = read_joined(records, labels, horizon=timedelta(days=30))
    children = [*CHILDREN, "churn-c"]
    write_rewards(reward_counts(joined.labelled.records, children), tmp_path / "rewards.json")
    parameters = RouteParameters.model_validate(
        {
            "route": "thompson",
            "children": '["churn-a", "churn-b", "churn-c"]',
            "rewards": str(tmp_path / "rewards.json"),
        }
    )
    counts = Rewards(tmp_path / "rewards.json", children).refresh()
    assert (counts["churn-c"].good, counts["churn-c"].bad) == (0, 0)
    generator = random.Random(1)
    assert {choose({}, parameters, counts, generator) for _ in range(300)} >= {0, 2}


def test_records_of_a_model_that_is_no_child_are_refused(tmp_path: Path) -> None:
    records, labels = directories(tmp_path)
    joined = read_joined(records, labels)
    with pytest.raises(DataError, match="records of churn-b, which is no child; allowed: churn-a"):
        reward_counts(joined.labelled.records, ["churn-a"])
