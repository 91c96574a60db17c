# ruff: noqa: E402  (MLflow reads its environment while it is imported)
"""The model registry (MLflow): registers trained models, resolves aliases to versions, downloads what was registered.

Only this file knows MLflow. Importing it takes seconds, so commands import it where they need it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sklearn
import xgboost

# Nothing is reported to MLflow's makers, no progress bars for two small files, and a registry that is down is noticed
# in seconds, not minutes. What the caller's environment says wins.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow
import mlflow.sklearn
import mlflow.xgboost
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.types import ColSpec, Schema

from custom_runtime.contract import FEATURES, FINGERPRINT, NAME
from handoff.errors import RegistryError
from handoff.importing import log_reference, read_reference
from handoff.registered import CHAMPION, ModelUri, ModelVersion, RegisteredModel, sqlite_file, tracking_uri
from handoff.training import TrainedModel

COLUMN_TYPE = "float"  # MLflow's name of float32
FINGERPRINT_KEY = "contract_fingerprint"
DEFAULTS_KEY = "defaults"
FLAVORS = {"xgboost": mlflow.xgboost, "sklearn": mlflow.sklearn}


class Registry:
    """An MLflow tracking server or database file, and the models registered there."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self._file = sqlite_file(self.uri)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # not a line for every migration of a new database
        with _translated(self.uri):
            self._client = mlflow.MlflowClient(self.uri, self.uri)

    def register(self, trained: TrainedModel, *, name: str = NAME, alias: str | None = CHAMPION) -> ModelVersion:
        """Log a run with the model, its metrics and reference rows; register it; point `alias` at the new version."""
        with self._current(), mlflow.start_run(experiment_id=self._experiment(name)) as run:
            run_id = run.info.run_id
            mlflow.log_params({**trained.parameters, "flavor": trained.flavor, "data": trained.source})
            mlflow.log_metrics(dict(trained.metrics))
            mlflow.set_tag(FINGERPRINT_KEY, FINGERPRINT)
            log_reference(self._client, run_id, trained.reference)
            logged = _log_model(trained)
            self._ensure_name(name)
            tags = {FINGERPRINT_KEY: FINGERPRINT}
            made = self._client.create_model_version(name, logged.model_uri, run_id, tags, model_id=logged.model_id)
            if alias is not None:
                self._client.set_registered_model_alias(name, alias, made.version)
        return ModelVersion(name, str(made.version), run_id)

    def resolve(self, uri: str) -> ModelVersion:
        """Resolve models:/<name>@<alias> or models:/<name>/<version>. Raises RegistryError when there is none."""
        wanted = ModelUri.parse(uri)
        with _translated(self.uri, wanted=uri):
            if wanted.alias:
                found = self._client.get_model_version_by_alias(wanted.name, wanted.alias)
            else:
                found = self._client.get_model_version(wanted.name, wanted.version)
        return ModelVersion(found.name, str(found.version), str(found.run_id or ""))

    def contract_of(self, name: str, alias: str) -> str | None:
        """Return the contract fingerprint of the version behind an alias, "" when it tells none, None without alias."""
        with _translated(self.uri):
            models = self._client.search_registered_models(f"name = '{name}'")
            if not any(alias in model.aliases for model in models):
                return None
            return str(self._client.get_model_version_by_alias(name, alias).tags.get(FINGERPRINT_KEY, ""))

    def download(self, version: ModelVersion) -> RegisteredModel:
        """Download a version. A scikit-learn model may be a pickle: import only what your own registry holds."""
        with self._current(wanted=version.uri):
            info = mlflow.models.get_model_info(version.uri)
            flavor = next((flavor for flavor in FLAVORS if flavor in info.flavors), None)
            if flavor is None:
                raise RegistryError(
                    f"{version.uri} has the flavors {', '.join(info.flavors)}; allowed: xgboost, sklearn"
                )
            model = FLAVORS[flavor].load_model(version.uri)
            reference = read_reference(self._client, version.run_id)
        metadata = info.metadata or {}
        return RegisteredModel(
            version=version,
            flavor=flavor,
            model=model,
            signature=None if info.signature is None else tuple(_columns(info.signature.inputs)),
            contract_fingerprint=metadata.get(FINGERPRINT_KEY),
            defaults=metadata.get(DEFAULTS_KEY),
            reference=reference,
        )

    @contextmanager
    def _current(self, *, wanted: str = "") -> Iterator[None]:
        # Logging and loading of models go to the process's registry, which another Registry may have set.
        with _translated(self.uri, wanted=wanted):
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            yield

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        # A database file has its artifacts beside it; a tracking server decides by itself.
        location = None if self._file is None else (self._file.resolve().parent / "mlartifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _ensure_name(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise


def _log_model(trained: TrainedModel) -> Any:
    common: dict[str, Any] = {
        "name": "model",
        "signature": ModelSignature(inputs=Schema([ColSpec(COLUMN_TYPE, feature.name) for feature in FEATURES])),
        "metadata": {FINGERPRINT_KEY: FINGERPRINT, DEFAULTS_KEY: dict(trained.defaults)},
    }
    # Requirements are given, or MLflow would start a second process only to guess them.
    if trained.flavor == "xgboost":
        requirements = [f"xgboost=={xgboost.__version__}"]
        return mlflow.xgboost.log_model(trained.model, pip_requirements=requirements, **common)
    requirements = [f"scikit-learn=={sklearn.__version__}"]
    # skops, unlike the pickle that MLflow offers too, runs no code when it is loaded.
    return mlflow.sklearn.log_model(
        trained.model, pip_requirements=requirements, serialization_format="skops", **common
    )


def _columns(inputs: Any) -> Iterator[tuple[str, str]]:
    """Yield each input's name and type; a tensor is no column, and shows its shape."""
    for spec in inputs.inputs if inputs is not None else ():
        if inputs.is_tensor_spec():
            yield str(spec.name), f"{spec.type}{list(spec.shape)}"
        else:
            yield str(spec.name), str(getattr(spec.type, "name", spec.type))


@contextmanager
def _translated(registry_uri: str, *, wanted: str = "") -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        what = f"{wanted} cannot be had from" if wanted else "cannot use"
        raise RegistryError(f"{what} the registry {registry_uri}: {error.message}") from error
