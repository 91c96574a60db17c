"""The import: a registered model version -> a checked, converted and compared bundle on disk.

The reference rows of a registered model: what an import compares its conversion on, kept beside the run.

Whether a registered model takes what the contract sends: names, order and types of its input columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from xgboost import XGBClassifier

from custom_runtime.contract import FEATURES, FINGERPRINT
from custom_runtime.model.bundle import Bundle, Parity, write_bundle
from custom_runtime.model.encoding import Matrix
from handoff.conversion import compare, convert
from handoff.dataset import iter_chunks
from handoff.errors import ImportRefused
from handoff.registered import ModelVersion, RegisteredModel
from handoff.training import defaults_of

REFERENCE = "reference.npz"
# MLflow's names of the column types that hold a float32 without loss.
ALLOWED_TYPES = ("float", "double")


class ModelSource(Protocol):
    """Where registered models come from: the registry."""

    def resolve(self, uri: str) -> ModelVersion:
        """Return the version that a URI names."""

    def download(self, version: ModelVersion) -> RegisteredModel:
        """Return what is registered as a version."""


@dataclass(frozen=True, slots=True)
class CheckedModel:
    """A registered model that fits the contract, and its ONNX form that agrees with it on the reference rows."""

    registered: RegisteredModel
    onnx: bytes
    parity: Parity
    defaults: dict[str, float | str]

    def write(self, directory: Path) -> Bundle:
        """Write the bundle atomically: ONNX, and XGBoost's own file where the model is one."""
        version = self.registered.version
        contents = {"onnx": self.onnx}
        if isinstance(self.registered.model, XGBClassifier):
            contents["xgboost"] = bytes(self.registered.model.get_booster().save_raw("ubj"))
        return write_bundle(
            directory,
            contents,
            name=version.name,
            version=version.version,
            run_id=version.run_id,
            source=version.uri,
            flavor=self.registered.flavor,
            defaults=self.defaults,
            parity=self.parity,
        )


def check_model(source: ModelSource, uri: str, *, reference: Path | None = None) -> CheckedModel:
    """Resolve, download, check, convert and compare; writes nothing.

    reference: a CSV or Parquet file to compare on, in place of the rows that were logged with the run.
    Raises RegistryError or ImportRefused (or DataError, for the reference file).
    """
    registered = source.download(source.resolve(uri))
    check_signature(registered)
    rows = _reference_rows(registered, reference)
    onnx = convert(registered.model)
    parity = compare(onnx, registered.model, rows)
    return CheckedModel(registered, onnx, parity, dict(registered.defaults or defaults_of(rows)))


def _reference_rows(registered: RegisteredModel, reference: Path | None) -> Matrix:
    if reference is not None:
        return np.concatenate([rows for _, rows in iter_chunks(reference)])
    if registered.reference is None:
        raise ImportRefused(
            f"the run of {registered.version.uri} has no reference rows to compare on; give some with --reference FILE"
        )
    return registered.reference


def log_reference(client: Any, run_id: str, rows: Matrix) -> None:
    """Keep encoded rows (float32, one column per feature) as an artifact of the run; client: MLflow's."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / REFERENCE
        np.savez_compressed(path, rows=rows)
        client.log_artifact(run_id, str(path))


def read_reference(client: Any, run_id: str) -> Matrix | None:
    """Return a run's rows, None where it has none: a version may also have been registered without a run ("")."""
    if not run_id or not any(file.path == REFERENCE for file in client.list_artifacts(run_id)):
        return None
    with tempfile.TemporaryDirectory() as directory:
        path = client.download_artifacts(run_id, REFERENCE, directory)
        with np.load(path, allow_pickle=False) as archive:
            return np.ascontiguousarray(archive["rows"], dtype=np.float32)


def check_signature(registered: RegisteredModel) -> None:
    """Raise ImportRefused, naming each column that differs, when the model was made for another contract."""
    uri = registered.version.uri
    if registered.signature is None:
        raise ImportRefused(f"{uri} was registered without a signature; log it with one: a float column per feature")
    differences = [text for text in _differences(registered.signature) if text]
    if differences:
        raise ImportRefused(
            f"the signature of {uri} is not the contract's: {'; '.join(differences)}; train again: churn-serving train"
        )
    # The signature knows nothing of units and categories, the fingerprint does. A foreign model may have none.
    if registered.contract_fingerprint not in (None, FINGERPRINT):
        raise ImportRefused(
            f"{uri} was trained for contract {registered.contract_fingerprint}, this is {FINGERPRINT}: "
            "units or categories have changed; train again: churn-serving train"
        )


def _differences(signature: Sequence[tuple[str, str]]) -> list[str]:
    pairs = zip_longest([feature.name for feature in FEATURES], signature)
    return [_difference(place, wanted, found) for place, (wanted, found) in enumerate(pairs, start=1)]


def _difference(place: int, wanted: str | None, found: tuple[str, str] | None) -> str:
    if found is None:
        return f"column {place} is missing, wanted: {wanted}"
    name, kind = found
    if wanted is None:
        return f"column {place} is {name}, wanted: no such column"
    if name != wanted:
        return f"column {place} is {name}, wanted: {wanted}"
    return "" if kind in ALLOWED_TYPES else f"column {place} ({name}) is {kind}, wanted: {' or '.join(ALLOWED_TYPES)}"
