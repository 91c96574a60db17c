import re
import warnings
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pytest
from mlflow.pyfunc import scoring_server

from custom_runtime.active import CONTRACT
from handoff.dataset import Dataset
from handoff.errors import RegistryError
from handoff.registry import Registry
from handoff.training import FLAVORS, TrainedModel, git_revision
from tests.handoff.conftest import Registered


def test_an_alias_resolves_to_the_version_it_points_at_now(registered: Registered) -> None:
    registry, versions = registered.registry, registered.versions
    client = mlflow.MlflowClient(registry.uri, registry.uri)
    client.set_registered_model_alias("churn", "moving", versions["xgboost"].version)
    assert registry.resolve("models:/churn@moving") == versions["xgboost"]
    client.set_registered_model_alias("churn", "moving", versions["sklearn"].version)
    assert registry.resolve("models:/churn@moving") == versions["sklearn"]
    assert registry.resolve("models:/churn/1") == versions["xgboost"]


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_downloaded_version_is_what_was_registered(
    registered: Registered, trained: dict[str, TrainedModel], dataset: Dataset, flavor: Any
) -> None:
    found = registered.registry.download(registered.versions[flavor])
    assert found.flavor == flavor
    assert found.signature == tuple((feature.name, "float") for feature in CONTRACT.features)
    assert found.contract_fingerprint == CONTRACT.fingerprint
    assert found.defaults == trained[flavor].defaults
    assert found.reference is not None
    assert found.reference.held_out is not None
    assert found.reference.held_out_answers is not None
    np.testing.assert_array_equal(found.reference.rows, dataset.rows)
    np.testing.assert_array_equal(np.asarray(found.reference.labels), dataset.labels)
    assert found.reference.held_out_answers.shape == (int(found.reference.held_out.sum()), 1)
    np.testing.assert_array_equal(
        found.model.predict_proba(dataset.rows), trained[flavor].model.predict_proba(dataset.rows)
    )


def test_the_run_holds_the_held_out_metrics(registered: Registered, trained: dict[str, TrainedModel]) -> None:
    client = mlflow.MlflowClient(registered.registry.uri)
    run = client.get_run(registered.versions["xgboost"].run_id)
    assert run.data.metrics == pytest.approx(trained["xgboost"].metrics)
    assert run.data.params["flavor"] == "xgboost"
    assert run.data.tags["contract_fingerprint"] == CONTRACT.fingerprint


def test_two_registries_in_one_process_do_not_mix(
    registered: Registered, trained: dict[str, TrainedModel], tmp_path: Path
) -> None:
    other = Registry(f"sqlite:///{tmp_path / 'other.db'}")
    assert other.contract_of("churn", "champion") is None
    assert registered.registry.download(registered.versions["xgboost"]).flavor == "xgboost"
    assert other.register(trained["sklearn"], alias=None).version == "1"
    assert (tmp_path / "mlartifacts").is_dir()
    assert other.contract_of("churn", "champion") is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/churn@nobody", "models:/churn@nobody is not available in the registry sqlite:.*nobody not found"),
        ("models:/churn/99", "models:/churn/99 is not available .* not found"),
        ("models:/other/1", "models:/other/1 is not available"),
        ("churn", "'churn' is no model URI; allowed: models:/churn@champion or models:/churn/7"),
        ("models:/churn", "is no model URI"),
        ("models:/churn@a/1", "is no model URI"),
    ],
)
def test_what_the_registry_does_not_hold_is_named(registered: Registered, uri: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        registered.registry.resolve(uri)


@pytest.mark.parametrize("flavor", FLAVORS)
async def test_mlflow_serves_the_registered_model_by_its_signature(
    registered: Registered, trained: dict[str, TrainedModel], dataset: Dataset, flavor: str
) -> None:
    """What `mlflow models serve` runs: the pyfunc flavor behind MLflow's own application."""
    mlflow.set_tracking_uri(registered.registry.uri)
    mlflow.set_registry_uri(registered.registry.uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mlflow.pyfunc.load_model(registered.versions[flavor].uri)
        transport = httpx.ASGITransport(scoring_server.init(model))
        example = model.input_example
        body = {"dataframe_split": example.to_dict(orient="split", index=False)}
        async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
            answered = await client.post("/invocations", json=body)
    assert answered.status_code == 200, answered.text
    expected = trained[flavor].model.predict(dataset.rows[: len(example)])
    assert answered.json()["predictions"] == expected.tolist()
    assert model.metadata.signature.inputs.input_names() == [feature.name for feature in CONTRACT.features]
    assert model.metadata.signature.outputs is not None


def test_the_run_names_the_data_and_the_revision(registered: Registered, trained: dict[str, TrainedModel]) -> None:
    run = mlflow.MlflowClient(registered.registry.uri).get_run(registered.versions["xgboost"].run_id)
    assert run.data.params["data_digest"] == trained["xgboost"].data_digest
    assert len(trained["xgboost"].data_digest) == 64
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", run.data.tags["git_revision"])


def test_outside_of_git_there_is_no_revision(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == ""
