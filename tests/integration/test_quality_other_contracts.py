"""Quality of several classes and of a regression: from the requests of a real server to the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score

from tests.support.programs import ROOT, eventually
from tests.support.serving import serving

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KINDS = ["oak", "pine", "birch"]
ROWS = 200


def environment(contract: str, folder: Path) -> dict[str, str]:
    return {
        "SERVING_CONTRACT": str(ROOT / "tests" / "support" / f"contract_of_{contract}.py"),
        "SERVING_BUNDLE": str(folder / "bundle"),
        "SERVING_FEATURE_STORE": f"sqlite:///{folder / 'features.db'}",
        "SERVING_DRAIN_DELAY_S": "0",
        "SERVING_RECORDS": f"file://{folder}/records",
        "SERVING_RECORD_KEY": "plain",
        "SERVING_RECORD_FEATURES": "1",
        "SERVING_RECORD_FLUSH_S": "0.1",
    }


def run(words: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answered(contract: str, folder: Path, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send each body as one request, `r-0` and on; return the answers when all records are written."""
    with (
        serving(environment(contract, folder), folder / "log", model=contract) as server,
        httpx.Client(base_url=server.rest, timeout=20) as client,
    ):
        answers = [
            client.post("/predict", json=body, headers={"x-request-id": f"r-{number}"})
            for number, body in enumerate(bodies)
        ]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        assert eventually(lambda: server.samples("serving_records_total", outcome="written") == len(bodies))
    return [answer.json() for answer in answers]


def measured(contract: str, folder: Path, labels: pd.DataFrame) -> tuple[Any, str]:
    """Return what the command found, and its page."""
    labels.to_csv(folder / "labels.csv", index=False)
    words = ["--records", f"{folder}/records", "--labels", f"{folder}/labels.csv", "--output", f"{folder}/page"]
    run(["-m", "commands.main", "quality", *words], environment(contract, folder))
    page = folder / "page"
    assert "serving_quality{" in (page / "quality.prom").read_text()
    return json.loads((page / "quality.json").read_text()), (page / "quality.html").read_text()


def test_several_classes_by_key_and_time(tmp_path: Path) -> None:
    run([str(ROOT / "tests/support/contract_bundle.py"), str(tmp_path)], environment("trees", tmp_path))
    tags = [f"plot-{number}" for number in range(ROWS)]
    answers = answered("trees", tmp_path, [{"tag": tag} for tag in tags])
    chances = np.array([[answer["probabilities"][kind] for kind in KINDS] for answer in answers])
    random = np.random.default_rng(0)
    truth = np.array([random.choice(3, p=row / row.sum()) for row in chances])
    labels = pd.DataFrame({"tag": tags, "kind": [KINDS[place] for place in truth]})
    labels["time"] = (pd.Timestamp.now(tz="UTC") + pd.Timedelta(days=1)).isoformat()
    found, page = measured("trees", tmp_path, labels)
    assert (found["task"], found["joined_by"]) == ("multiclass", "key and time")
    (version,) = found["versions"]
    measures = version["overall"]["measures"]
    assert measures["accuracy"]["value"] == pytest.approx(accuracy_score(truth, chances.argmax(axis=1)))
    assert measures["log_loss"]["value"] == pytest.approx(float(-np.log(chances[np.arange(ROWS), truth]).mean()))
    assert [one["label"] for one in version["classes"]] == KINDS
    assert sum(one["labels"] for one in version["classes"]) == ROWS
    for words in ("Macro AUC", "Class oak against the rest", "Log loss of its rows"):
        assert words in page
    assert 'serving_quality_class{bound="value",label="oak"' in (tmp_path / "page" / "quality.prom").read_text()


def test_a_regression_without_a_key_by_request_id(tmp_path: Path) -> None:
    run([str(ROOT / "tests/support/contract_bundle.py"), str(tmp_path)], environment("prices", tmp_path))
    random = np.random.default_rng(0)
    bodies = [
        {"area": float(random.uniform(1, 1_000)), "rooms": int(random.integers(1, 50)), "balcony": bool(number % 2)}
        for number in range(ROWS)
    ]
    predicted = np.array([answer["price"] for answer in answered("prices", tmp_path, bodies)])
    truth = predicted + random.normal(3, 20, size=ROWS)
    labels = pd.DataFrame({"request_id": [f"r-{number}" for number in range(ROWS)], "price": truth})
    found, page = measured("prices", tmp_path, labels)
    assert (found["task"], found["joined_by"]) == ("regression", "request id")
    measures = found["versions"][0]["overall"]["measures"]
    assert measures["mae"]["value"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert measures["r2"]["value"] == pytest.approx(r2_score(truth, predicted), abs=1e-6)
    assert measures["rmse"]["low"] < measures["rmse"]["value"] < measures["rmse"]["high"]
    assert measures["coverage"]["value"] is not None  # the contract has an interval
    assert "Residuals" in page
    assert "Share inside the interval" in page
