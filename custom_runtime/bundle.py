"""The model bundle on disk: one directory that holds everything a pod needs to score, and can prove it.

    bundle.json             version, run, source, contract fingerprint, defaults, parity, and each file's sha256
    model-<sha256[:12]>.onnx    what ONNX Runtime scores
    model-<sha256[:12]>.ubj     the same model as XGBoost saved it, where it is one

Nothing here is a pickle. bundle_writing.py makes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from custom_runtime.contract import FEATURES, FINGERPRINT
from custom_runtime.errors import BundleError, ContractMismatch

MANIFEST = "bundle.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of the bundle: its name in the directory, sha256 (hex) and size in bytes."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Parity:
    """What the import measured: ONNX Runtime against the registered model's own probabilities."""

    rows: int
    max_abs_difference: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. `defaults` has a contract value for every feature (training medians and modes)."""

    directory: Path
    name: str
    version: str
    run_id: str
    source: str
    flavor: str
    contract_fingerprint: str
    defaults: Mapping[str, float | str]
    parity: Parity
    files: Mapping[str, BundleFile]

    def path(self, role: str) -> Path:
        """Return where a role's file is ("onnx" or "xgboost"). Raises BundleError when the bundle has none."""
        if role not in self.files:
            raise BundleError(f"bundle {self.directory} has no {role} file; it has: {', '.join(self.files)}")
        return self.directory / self.files[role].name


def read_bundle(directory: Path) -> Bundle:
    """Read and verify a bundle: every file's sha256 and the contract's fingerprint.

    Raises BundleError (missing, altered or unreadable) or ContractMismatch (made for another contract).
    """
    manifest = directory / MANIFEST
    try:
        stored = json.loads(manifest.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(
            f"no bundle at {directory}: {MANIFEST} is missing; "
            f"make one: scripts/import_model.py models:/churn@champion --output {directory}"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest} cannot be read: {error}") from error
    bundle = _parse(directory, stored)
    if bundle.contract_fingerprint != FINGERPRINT:
        raise ContractMismatch(
            f"bundle {directory} was made for contract {bundle.contract_fingerprint}, this server has {FINGERPRINT}; "
            "import the model again, or run the image that belongs to the bundle"
        )
    for file in bundle.files.values():
        _verify(directory / file.name, file)
    return bundle


def _parse(directory: Path, stored: object) -> Bundle:
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA:
        raise BundleError(f"{directory / MANIFEST} is not a bundle manifest of schema {SCHEMA}; import the model again")
    try:
        bundle = Bundle(
            directory=directory,
            name=str(stored["name"]),
            version=str(stored["version"]),
            run_id=str(stored["run_id"]),
            source=str(stored["source"]),
            flavor=str(stored["flavor"]),
            contract_fingerprint=str(stored["contract_fingerprint"]),
            defaults=dict(stored["defaults"]),
            parity=Parity(**stored["parity"]),
            files={role: BundleFile(**file) for role, file in stored["files"].items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(
            f"{directory / MANIFEST} lacks or misspells a field: {error!r}; import the model again"
        ) from error
    missing = [feature.name for feature in FEATURES if feature.name not in bundle.defaults]
    if bundle.contract_fingerprint == FINGERPRINT and missing:
        raise BundleError(f"{directory / MANIFEST} has no default for {', '.join(missing)}; import the model again")
    return bundle


def _verify(path: Path, file: BundleFile) -> None:
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"bundle file {path} cannot be read: {error.strerror}; import the model again") from error
    if sha256 != file.sha256:
        raise BundleError(f"bundle file {path} was altered: sha256 is {sha256}, bundle.json says {file.sha256}")
