import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from custom_runtime.model.bundle import read_bundle
from handoff import prepare as preparing
from handoff.errors import ImportRefused
from handoff.prepare import prepare
from handoff.training import TrainedModel
from tests.handoff.conftest import Registered


@pytest.fixture
def said() -> Any:
    return []


@pytest.fixture
def places(in_registry: Registered, tmp_path: Path) -> Any:
    return tmp_path / "bundle", tmp_path / "stock"


def test_what_exists_is_imported_once_and_not_repeated(in_registry: Registered, places: Any, said: Any) -> None:
    prepare(*places, say=said.append)
    assert [line.split()[0] for line in said] == ["imported", "checked"]
    assert read_bundle(places[0]).version == in_registry.versions["xgboost"].version
    assert sorted(path.name for path in places[1].iterdir()) == [
        "churn-sklearn.joblib",
        "churn-xgboost.ubj",
        "prepared.json",
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
        [sys.executable, "-c", program, *map(str, places)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("lost", ["bundle/bundle.json", "stock/churn-sklearn.joblib", "stock/prepared.json"])
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
    assert [line.split()[0] for line in said] == ["trained", "trained", "imported", "checked"]
    assert read_bundle(places[0]).flavor == "xgboost"
    said.clear()
    mlflow.MlflowClient(uri, uri).set_registered_model_alias("churn", "champion", "2")
    prepare(*places, say=said.append)
    assert [line.split()[0] for line in said] == ["imported", "checked"]
    assert (read_bundle(places[0]).version, read_bundle(places[0]).flavor) == ("2", "sklearn")


def test_an_edited_contract_is_trained_for_again(
    tmp_path: Path, trained: dict[str, TrainedModel], monkeypatch: pytest.MonkeyPatch, said: Any
) -> None:
    from handoff.registry import Registry

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with monkeypatch.context() as earlier:
        earlier.setattr("handoff.registry.FINGERPRINT", "0" * 64)
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
