# ruff: noqa: E402  (MLflow reads its environment while it is imported)
"""The model registry (MLflow): registers trained models, resolves aliases to versions, downloads what was registered.

Only this file knows MLflow. Importing it takes seconds, so commands import it where they need it.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
from mlflow.models import infer_signature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from custom_runtime.active import CONTRACT
from handoff.errors import RegistryError
from handoff.registered import (
    CHALLENGER,
    ModelUri,
    ModelVersion,
    Reference,
    RegisteredModel,
    sqlite_file,
    tracking_uri,
)
from handoff.stacking import Stacked
from handoff.training import TrainedModel, git_revision

FINGERPRINT_KEY = "contract_fingerprint"
DEFAULTS_KEY = "defaults"
REVISION_KEY = "git_revision"
REFERENCE_FILE = "reference.npz"
EXAMPLE_ROWS = 5
FLAVORS = ("xgboost", "lightgbm", "catboost", "sklearn")


class Registry:
    """An MLflow tracking server or database file, and the models registered there."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self._file = sqlite_file(self.uri)
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # no line for every migration of a new database
        with _translated(self.uri):
            self._client = mlflow.MlflowClient(self.uri, self.uri)

    def register(
        self, trained: TrainedModel, *, name: str = CONTRACT.name, alias: str | None = CHALLENGER
    ) -> ModelVersion:
        """Log a run with the model, its metrics and reference rows; register it; point `alias` at the new version."""
        with self._current(), mlflow.start_run(experiment_id=self._experiment(name)) as run:
            run_id = run.info.run_id
            mlflow.log_params(
                {
                    **trained.parameters,
                    "flavor": trained.flavor,
                    "data": trained.source,
                    "data_digest": trained.data_digest,
                    "refitted": trained.refitted,
                }
            )
            mlflow.log_metrics(dict(trained.metrics))
            mlflow.set_tags({FINGERPRINT_KEY: CONTRACT.fingerprint, REVISION_KEY: git_revision()})
            _log_reference(self._client, run_id, trained.reference)
            logged = _log_model(trained)
            self._ensure_name(name)
            tags = {FINGERPRINT_KEY: CONTRACT.fingerprint}
            made = self._client.create_model_version(name, logged.model_uri, run_id, tags, model_id=logged.model_id)
            if alias is not None:
                self._client.set_registered_model_alias(name, alias, made.version)
        return ModelVersion(name, str(made.version), run_id)

    def register_stack(self, stacked: Stacked, name: str) -> ModelVersion:
        """Log and register a stack, its coefficients' file included, as the newest version of `name`."""
        with self._current(), mlflow.start_run(experiment_id=self._experiment(name)) as run:
            mlflow.log_params({f"branch.{branch}": uri for branch, uri in stacked.sources.items()})
            mlflow.log_metrics({f"log_loss.{of or 'stack'}": value for of, value in stacked.log_loss.items()})
            mlflow.log_text(stacked.to_json().decode(), "stack.json")
            example = np.zeros((1, len(stacked.coefficients)))
            logged = mlflow.sklearn.log_model(
                stacked.model,
                name="model",
                signature=infer_signature(example, stacked.model.predict(example)),
                pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
                serialization_format="skops",
            )
            self._ensure_name(name)
            made = self._client.create_model_version(name, logged.model_uri, run.info.run_id, model_id=logged.model_id)
        return ModelVersion(name, str(made.version), run.info.run_id)

    def resolve(self, uri: str) -> ModelVersion:
        """Resolve models:/<name>@<alias> or models:/<name>/<version>. Raises RegistryError when there is none."""
        wanted = ModelUri.parse(uri)
        with _translated(self.uri, wanted=uri):
            if wanted.alias:
                found = self._client.get_model_version_by_alias(wanted.name, wanted.alias)
            else:
                found = self._client.get_model_version(wanted.name, wanted.version)
        return ModelVersion(found.name, str(found.version), str(found.run_id or ""))

    def newest(self, name: str) -> ModelVersion | None:
        """Return the version with the highest number, None where there is none."""
        with _translated(self.uri):
            found = self._client.search_model_versions(f"name = '{name}'")
        versions = [ModelVersion(name, str(each.version), str(each.run_id or "")) for each in found]
        return max(versions, key=lambda version: int(version.version), default=None)

    def ensure_experiment(self, name: str) -> None:
        """Make the experiment of a model where it is missing; its artifacts stand beside a database file."""
        with self._current():
            self._experiment(name)

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Point an alias at a version; whatever it pointed at before stays registered."""
        with _translated(self.uri, wanted=version.uri):
            self._client.set_registered_model_alias(version.name, alias, version.version)

    def log_evaluation(self, version: ModelVersion, files: Sequence[Path], metrics: Mapping[str, float]) -> bool:
        """Keep an evaluation's files and metrics with the version's run; return whether it has one."""
        if not version.run_id:
            return False
        with _translated(self.uri, wanted=version.uri):
            for file in files:
                self._client.log_artifact(version.run_id, str(file), "evaluation")
            for name, value in metrics.items():
                self._client.log_metric(version.run_id, f"evaluation.{name}", value)
        return True

    def contract_of(self, name: str, alias: str) -> str | None:
        """Return the contract fingerprint of the version behind an alias, "" when it names none, None without alias."""
        with _translated(self.uri):
            models = self._client.search_registered_models(f"name = '{name}'")
            if not any(alias in model.aliases for model in models):
                return None
            return str(self._client.get_model_version_by_alias(name, alias).tags.get(FINGERPRINT_KEY, ""))

    def download(self, version: ModelVersion) -> RegisteredModel:
        """Describe a version; the model is downloaded and loaded when `load` is called.

        A scikit-learn model may be a pickle, which runs code when it is loaded: import what your own registry holds.
        """
        with self._current(wanted=version.uri):
            info = mlflow.models.get_model_info(version.uri)
            flavor = next((flavor for flavor in FLAVORS if flavor in info.flavors), None)
            if flavor is None:
                raise RegistryError(
                    f"{version.uri} has the flavors {', '.join(info.flavors)}; allowed: {', '.join(FLAVORS)}"
                )
            reference = _read_reference(self._client, version.run_id)
        metadata = info.metadata or {}
        return RegisteredModel(
            version=version,
            flavor=flavor,
            load=cache(partial(self._load, version, flavor)),
            load_example=partial(self._example, version),
            signature=None if info.signature is None else tuple(_columns(info.signature.inputs)),
            contract_fingerprint=metadata.get(FINGERPRINT_KEY),
            defaults=metadata.get(DEFAULTS_KEY),
            reference=reference,
        )

    def _load(self, version: ModelVersion, flavor: str) -> Any:
        with self._current(wanted=version.uri):
            try:
                return importlib.import_module(f"mlflow.{flavor}").load_model(version.uri)
            except ModuleNotFoundError as error:
                raise RegistryError(
                    f"{version.uri} needs the package {error.name}, which is not installed here; "
                    f"run: pip install {error.name}"
                ) from error

    def _example(self, version: ModelVersion) -> Any:
        with self._current(wanted=version.uri):
            example = mlflow.models.Model.load(version.uri).load_input_example()
        return example if isinstance(example, pd.DataFrame) else None

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
    example = pd.DataFrame(
        trained.reference.rows[:EXAMPLE_ROWS], columns=[feature.name for feature in CONTRACT.features], dtype=np.float32
    )
    outputs = np.asarray(trained.model.predict(example.to_numpy()))
    common: dict[str, Any] = {
        "name": "model",
        "signature": infer_signature(example, outputs),
        "input_example": example,
        "metadata": {FINGERPRINT_KEY: CONTRACT.fingerprint, DEFAULTS_KEY: dict(trained.defaults)},
    }
    # Requirements are given, or MLflow would start a second process only to guess them.
    if trained.flavor == "xgboost":
        requirements = [f"xgboost=={xgboost.__version__}"]
        return mlflow.xgboost.log_model(trained.model, pip_requirements=requirements, **common)
    requirements = [f"scikit-learn=={sklearn.__version__}"]
    with warnings.catch_warnings():
        # MLflow tries the model on the example, which has names; it was fitted on arrays, where the order counts.
        warnings.filterwarnings("ignore", message="X has feature names", category=UserWarning)
        # skops, unlike the pickle that MLflow offers too, loads only types that it knows.
        return mlflow.sklearn.log_model(
            trained.model, pip_requirements=requirements, serialization_format="skops", **common
        )


def _log_reference(client: Any, run_id: str, reference: Reference) -> None:
    """Keep reference rows as an artifact of the run; client: MLflow's."""
    arrays = {name: getattr(reference, name) for name in Reference.__slots__}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / REFERENCE_FILE
        np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
        client.log_artifact(run_id, str(path))


def _read_reference(client: Any, run_id: str) -> Reference | None:
    """Return a run's rows, None where it has none: a version may also have been registered without a run ("")."""
    if not run_id or not any(file.path == REFERENCE_FILE for file in client.list_artifacts(run_id)):
        return None
    with tempfile.TemporaryDirectory() as directory:
        path = client.download_artifacts(run_id, REFERENCE_FILE, directory)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in Reference.__slots__ if name in archive.files}
    return Reference(**{**arrays, "rows": np.ascontiguousarray(arrays["rows"], dtype=np.float32)})


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
        said = _cause(error) or " ".join(error.message.split()).rstrip(".")
        if wanted:
            raise RegistryError(
                f"{wanted} is not available in the registry {registry_uri}: {said}; register a model "
                "(churn-serving train), or set MLFLOW_TRACKING_URI to the registry that has it"
            ) from error
        raise RegistryError(f"cannot use the registry {registry_uri} (MLFLOW_TRACKING_URI): {said}") from error


def _cause(error: MlflowException) -> str:
    """Return why a tracking server was not reached; empty for any other error. The client's text has three layers."""
    found = re.search(r"Max retries exceeded.*\[Errno -?\d+\] ([^\"')]+)", error.message, re.DOTALL)
    return f"it cannot be reached: {found[1]}" if found else ""
