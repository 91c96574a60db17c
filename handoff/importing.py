"""The import: a registered model version -> a checked, converted and compared bundle on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from xgboost import XGBClassifier

from custom_runtime.bundle import Bundle, Parity
from custom_runtime.bundle_writing import write_bundle
from custom_runtime.encoding import Matrix
from handoff.conversion import convert
from handoff.dataset import iter_chunks
from handoff.errors import ImportRefused
from handoff.parity import compare
from handoff.registered import ModelVersion, RegisteredModel
from handoff.signature import check_signature
from handoff.training import defaults_of


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
