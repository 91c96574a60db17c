"""A contract with an interval: training fits quantiles, and the evaluation measures the value, not an end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handoff.evaluation.measures import metrics, residuals
from tests.support.programs import GUARD_S, ROOT

# The contract is one for each process.
PROGRAM = """
import json, sys
from pathlib import Path
from custom_runtime.active import CONTRACT
from handoff.conversion.convert import answers_of, convert
from handoff.conversion.inputs import match_signature
from handoff.conversion.parity import compare
from handoff.dataset import read_dataset
from handoff.errors import TrainingRefused
from handoff.importing import IS_NULLABLE, TARGET
from handoff.training import train

table = read_dataset(Path(sys.argv[1]))
trained = train(table)
inputs = match_signature([(f.name, "float") for f in CONTRACT.features], CONTRACT.features, uri="m")
expected = answers_of(trained.model, inputs, TARGET, table.rows)
graph = convert(trained.model, inputs, TARGET, width=table.rows.shape[1], nullable=IS_NULLABLE)
refused = ""
try:
    train(table, "sklearn")
except TrainingRefused as error:
    refused = str(error)
print(json.dumps({
    "difference": compare(graph.onnx, expected, table.rows, relative=True).max_abs_difference,
    "columns": trained.reference.held_out_answers.shape[1], "metrics": dict(trained.metrics), "refused": refused,
}))
"""


def test_training_fits_the_value_and_the_ends_of_its_interval(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    table = tmp_path / "prices.csv"
    areas, rooms = random.integers(20, 200, size=600), random.integers(1, 8, size=600)
    prices = areas * 3 + rooms * 20 + random.normal(0, 25, size=600).round(1)
    balconies = random.choice(["true", "false", ""], size=600)
    lines = [f"{a},{r},{b},{p}" for a, r, b, p in zip(areas, rooms, balconies, prices, strict=True)]
    table.write_text("\n".join(["area,rooms,balcony,price", *lines]) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(table)],
        cwd=ROOT,
        env=os.environ | {"SERVING_CONTRACT": "tests/support/contract_of_prices.py", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["difference"] <= 1e-5
    assert found["columns"] == 3
    assert found["metrics"]["r2"] > 0.8  # of the value
    assert 0.6 < found["metrics"]["coverage"] < 1
    assert "--flavor is sklearn, which fits a value alone; allowed: --flavor xgboost" in found["refused"]


def test_the_value_is_measured_and_the_interval_beside_it() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    answers = np.column_stack([truth - 1, truth, truth + 2])
    answers[3] = [4.5, 4.0, 5.0]
    found = metrics("regression", truth, answers)
    assert (found["mae"], found["rmse"], found["r2"]) == (0, 0, 1)
    assert found["coverage"] == 0.75
    assert found["width"] == pytest.approx((3 * 3 + 0.5) / 4)
    assert set(residuals(truth, answers).quantiles.values()) == {0.0}
    assert "coverage" not in metrics("regression", truth, answers[:, 1:2])
