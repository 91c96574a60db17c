"""Quality of several classes and of a regression: from the requests of a real server to the page, with drift."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score

from tests.support.programs import GUARD_S, ROOT, eventually
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
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made(contract: str, folder: Path) -> dict[str, str]:
    """Make a bundle, version 3, with a profile of its rows, and a challenger, version 4, of the same model.

    Returns the environment of a server of both.
    """
    variables = environment(contract, folder)
    run([str(ROOT / "tests/support/contract_bundle.py"), str(folder)], variables)
    challenger = folder / "bundle-4"
    shutil.copytree(folder / "bundle", challenger)
    manifest = challenger / "bundle.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": "4"}))
    return variables | {"SERVING_CHALLENGERS": str(challenger)}


def answered(
    contract: str, folder: Path, variables: dict[str, str], bodies: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Send each body as one request, `r-0` and on; return the answers when all records are written."""
    with (
        serving(variables, folder / "log", model=contract) as server,
        httpx.Client(base_url=server.rest, timeout=GUARD_S) as client,
    ):
        answers = [
            client.post("/predict", json=body, headers={"x-request-id": f"r-{number}"})
            for number, body in enumerate(bodies)
        ]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        assert eventually(lambda: server.samples("serving_records_total", outcome="written") == len(bodies))
    return [answer.json() for answer in answers]


def measured(contract: str, folder: Path, labels: pd.DataFrame) -> tuple[Any, str, str]:
    """Return what the command found, its page and its metrics."""
    labels.to_csv(folder / "labels.csv", index=False)
    page = folder / "page"
    words = ["--records", f"{folder}/records", "--labels", f"{folder}/labels.csv", "--output", str(page)]
    words += ["--bundle", f"{folder}/bundle"]
    run(["-m", "commands.main", "quality", *words], environment(contract, folder))
    found, html, text = ((page / f"quality.{kind}").read_text() for kind in ("json", "html", "prom"))
    return json.loads(found), html, text


def check_challenger(found: Any) -> None:
    (challenge,) = found["challenges"]
    compared = challenge["comparison"]
    assert (challenge["champion"], challenge["challenger"], compared["rows"]) == ("3", "4", ROWS)
    assert [one["difference"] for one in compared["differences"]] == pytest.approx([0.0] * len(compared["differences"]))


def drifts_of(found: Any) -> dict[str, Any]:
    drifts = {one["name"]: one for one in found["drift"]["3"]}
    assert {one["rows"] for one in drifts.values()} == {ROWS}
    return drifts


def test_several_classes_by_key_and_time(tmp_path: Path) -> None:
    variables = made("trees", tmp_path)
    random = np.random.default_rng(0)
    tags = [f"plot-{number}" for number in range(ROWS)]
    # The stored rows, which are the profile's; but all trees are tall now.
    bodies = [{"tag": tag, "height": float(random.uniform(90, 120))} for tag in tags]
    answers = answered("trees", tmp_path, variables, bodies)
    chances = np.array([[answer["probabilities"][kind] for kind in KINDS] for answer in answers])
    truth = np.array([random.choice(3, p=row / row.sum()) for row in chances])
    labels = pd.DataFrame({"tag": tags, "kind": [KINDS[place] for place in truth]})
    labels["time"] = (pd.Timestamp.now(tz="UTC") + pd.Timedelta(days=1)).isoformat()
    found, page, text = measured("trees", tmp_path, labels)
    assert (found["task"], found["joined_by"]) == ("multiclass", "key and time")
    (version,) = found["versions"]
    measures = version["overall"]["measures"]
    assert measures["accuracy"]["value"] == pytest.approx(accuracy_score(truth, chances.argmax(axis=1)))
    assert measures["log_loss"]["value"] == pytest.approx(float(-np.log(chances[np.arange(ROWS), truth]).mean()))
    assert [one["label"] for one in version["classes"]] == KINDS
    assert sum(one["labels"] for one in version["classes"]) == ROWS
    check_challenger(found)
    drifts = drifts_of(found)
    assert set(drifts) == {"class", *(f"probability of {kind}" for kind in KINDS), "height", "rings", "planted", "soil"}
    assert (drifts["height"]["verdict"], drifts["height"]["missing"]) == ("moved", 0.0)
    assert {drifts[name]["verdict"] for name in ("rings", "planted", "soil")} == {"steady"}
    for words in ("Macro AUC", "Class oak against the rest", "Log loss of its rows", "probability of oak"):
        assert words in page
    assert 'serving_quality_class{bound="value",label="oak"' in text
    assert 'serving_quality_drift{input="height",model="trees",version="3"}' in text


def test_a_regression_without_a_key_by_request_id(tmp_path: Path) -> None:
    variables = made("prices", tmp_path)
    random = np.random.default_rng(0)
    bodies = [  # of the profile's rows, but large ones only
        {"area": float(random.uniform(700, 1_000)), "rooms": int(random.integers(1, 50)), "balcony": bool(number % 2)}
        for number in range(ROWS)
    ]
    answers = answered("prices", tmp_path, variables, bodies)
    predicted = np.array([answer["price"] for answer in answers])
    truth = predicted + random.normal(3, 20, size=ROWS)
    labels = pd.DataFrame({"request_id": [f"r-{number}" for number in range(ROWS)], "price": truth})
    found, page, text = measured("prices", tmp_path, labels)
    assert (found["task"], found["joined_by"]) == ("regression", "request id")
    measures = found["versions"][0]["overall"]["measures"]
    assert measures["mae"]["value"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert measures["r2"]["value"] == pytest.approx(r2_score(truth, predicted), abs=1e-6)
    assert measures["rmse"]["low"] < measures["rmse"]["value"] < measures["rmse"]["high"]
    assert measures["coverage"]["value"] is not None  # the contract has an interval
    check_challenger(found)
    drifts = drifts_of(found)
    assert set(drifts) == {"score", "area", "rooms", "balcony"}
    assert {drifts[name]["verdict"] for name in ("score", "area")} == {"moved"}
    assert drifts["area"]["effect"] > 1
    assert drifts["rooms"]["verdict"] != "moved"
    for words in ("Residuals", "Share inside the interval", "Challenger 4 beside version 3"):
        assert words in page
    assert 'serving_quality_drift{input="area",model="prices",version="3"}' in text
    assert 'serving_quality{bound="value",metric="mae",model="prices",version="3"}' in text
