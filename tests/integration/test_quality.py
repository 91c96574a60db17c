"""From requests to the page: a real server writes records, and `churn-serving quality` joins labels with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from custom_runtime.active import CONTRACT
from tests.support.answering import answering, ok
from tests.support.programs import GUARD_S, ROOT, eventually
from tests.support.serving import World, serving

pytestmark = pytest.mark.integration

KEY, PROBABILITY = "customer_id", "churn_probability"
SALT = "a salt of the tests"
BATCH, BATCHES = 60, 4


class Recorded(NamedTuple):
    """Records of a server that has ended, and what it answered: customer -> score."""

    directory: Path
    scores: dict[int, float]
    bundle: Path
    salt_file: Path


@pytest.fixture(scope="module")
def recorded(world: World, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("quality")
    environment = world.environment | {
        "SERVING_RECORDS": f"file://{folder}/records",
        "SERVING_RECORD_SALT": SALT,
        "SERVING_RECORD_FEATURES": "1",
        "SERVING_RECORD_FLUSH_S": "0.1",
    }
    scores: dict[int, float] = {}
    with serving(environment, folder / "log") as server, httpx.Client(base_url=server.rest, timeout=GUARD_S) as client:
        for batch in range(BATCHES):
            ids = list(range(1 + batch * BATCH, 1 + (batch + 1) * BATCH))
            tensor = {"name": KEY, "datatype": "INT64", "shape": [BATCH, 1], "data": ids}
            answer = client.post("/v2/models/churn/infer", json={"id": f"batch-{batch}", "inputs": [tensor]})
            assert answer.status_code == 200, answer.text
            outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
            scores.update(zip(ids, outputs[PROBABILITY], strict=True))
        # The same customer again, by itself: its record has the request id of the header.
        single = client.post("/predict", json={KEY: 1}, headers={"x-request-id": "single"})
        assert single.status_code == 200
        assert eventually(lambda: server.samples("serving_records_total", outcome="written") == len(scores) + 1)
    salt_file = folder / "salt"
    salt_file.write_text(SALT + "\n")
    return Recorded(folder / "records", scores, world.bundle, salt_file)


def truths(recorded: Recorded) -> dict[int, str]:
    random = np.random.default_rng(0)
    return {customer: "Yes" if random.random() < score else "No" for customer, score in recorded.scores.items()}


def quality(recorded: Recorded, labels: Path, *words: str, contract: str = "") -> tuple[int, str, Any]:
    """Run the command; return its exit code, its output and what it found."""
    output = labels.parent / "page"
    command = [sys.executable, "-m", "commands.main", "quality", "--records", str(recorded.directory)]
    command += ["--labels", str(labels), "--output", str(output), "--bundle", str(recorded.bundle), *words]
    environment = os.environ | ({"SERVING_CONTRACT": contract} if contract else {})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=GUARD_S, check=False
    )
    file = output / "quality.json"
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text()) if file.exists() else None


def auc_of(recorded: Recorded, truth: dict[int, str]) -> float:
    ids = sorted(truth)
    return float(roc_auc_score([truth[one] == "Yes" for one in ids], [recorded.scores[one] for one in ids]))


def test_labels_by_request_id_reach_the_page_the_json_and_a_pushgateway(recorded: Recorded, tmp_path: Path) -> None:
    truth = truths(recorded)
    rows = [
        {"request_id": f"batch-{(one - 1) // BATCH}", "row": (one - 1) % BATCH, "churn": label}
        for one, label in truth.items()
    ]
    rows += [{"request_id": "single", "row": 0, "churn": truth[1]}, {"request_id": "lost", "row": 0, "churn": "No"}]
    rows += [{"request_id": "batch-0", "row": 1, "churn": ""}]  # not known yet
    labels = tmp_path / "labels.csv"
    pd.DataFrame(rows).to_csv(labels, index=False)
    pushed: list[int] = []

    def take(number: int) -> bytes:
        pushed.append(number)
        return ok(b"", "202 Accepted")

    with answering(take) as port:
        code, said, found = quality(recorded, labels, "--push", f"http://127.0.0.1:{port}")
    assert code == 0, said
    assert len(pushed) == 1
    assert (found["joined_by"], found["unmatched"], found["predictions"]) == ("request id", 1, len(truth) + 1)
    (version,) = found["versions"]
    assert version["overall"]["labels"] == len(truth) + 1
    auc = version["overall"]["measures"]["auc"]
    assert auc["value"] == pytest.approx(auc_of(recorded, truth), abs=0.01)  # customer 1 counts twice
    assert auc["low"] < auc["value"] < auc["high"]
    (drifts,) = found["drift"].values()
    assert {one["name"] for one in drifts} == {"score", *(feature.name for feature in CONTRACT.features)}
    page = (tmp_path / "page" / "quality.html").read_text()
    assert "Segments where it fails" in page
    assert "serving_quality_labels" in (tmp_path / "page" / "quality.prom").read_text()


@pytest.mark.slow
def test_labels_by_key_and_time_find_hashed_keys(recorded: Recorded, tmp_path: Path) -> None:
    truth = truths(recorded)
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"customerID": list(truth), "time": soon, "Churn": list(truth.values())}).to_csv(labels, index=False)
    code, said, _ = quality(recorded, labels)
    assert code == 1
    assert "the records have hashed keys; give the salt of SERVING_RECORD_SALT with --salt-file" in said
    code, said, found = quality(recorded, labels, "--salt-file", str(recorded.salt_file))
    assert code == 0, said
    assert (found["joined_by"], found["unmatched"], found["superseded"]) == ("key and time", 0, 0)
    # Each label belongs to the customer's last prediction: of customer 1, to the single one.
    assert found["versions"][0]["overall"]["labels"] == len(truth)
    assert found["versions"][0]["overall"]["measures"]["auc"]["value"] == pytest.approx(auc_of(recorded, truth))
    early = tmp_path / "early" / "labels.csv"
    early.parent.mkdir()
    past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    pd.DataFrame({"customerID": list(truth), "time": past, "Churn": list(truth.values())}).to_csv(early, index=False)
    code, said, _ = quality(recorded, early, "--salt-file", str(recorded.salt_file))
    assert code == 1
    assert "0 of 240 labels belong to a prediction" in said


@pytest.mark.slow
def test_records_and_labels_of_another_contract_are_refused(recorded: Recorded, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    table = {"request_id": ["batch-0"], "row": [0], "churn": ["Yes"], "contract": ["0123abcd"]}
    pd.DataFrame(table).to_csv(labels, index=False)
    code, said, found = quality(recorded, labels)
    assert (code, found) == (1, None)
    assert f"has labels of contract 0123abcd; this is {CONTRACT.fingerprint}" in said
    trees = tmp_path / "trees" / "labels.csv"
    trees.parent.mkdir()
    trees.write_text("request_id,kind\nbatch-0,oak\n")
    other = str(ROOT / "tests" / "support" / "contract_of_trees.py")
    code, said, found = quality(recorded, trees, contract=other)
    assert (code, found) == (1, None)
    assert f"are of contract {CONTRACT.fingerprint}; allowed: " in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_what_cannot_be_read_is_said_in_one_line(recorded: Recorded, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("request_id,churn\nsingle,Yes\n")
    for words, message in (
        (("--since", "2999-01-01"), "has no predictions from 2999-01-01"),
        (("--salt-file", str(tmp_path / "none")), "none cannot be read"),
        (("--period", "soon"), "period is 'soon'"),
    ):
        code, said, _ = quality(recorded, labels, *words)
        assert code == 1, said
        assert message in said
        assert "Traceback" not in said
