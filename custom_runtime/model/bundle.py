"""The model bundle: one directory with everything a pod needs to score, verified by checksums when it is read.

    bundle.json             version, run, source, contract fingerprint, task, classes, defaults, parity, files' sha256
    model-<sha256[:12]>.onnx    the model for ONNX Runtime
    model-<sha256[:12]>.npz     the same model as bit vectors (forest.py), when it is trees and scores faster so
    model-<sha256[:12]>.ubj     the same model in XGBoost's format, when it is an XGBoost model
    model-<sha256[:12]>.json    how its predictions are explained (explaining.py), with the files that this takes
    model-<sha256[:12]>.json    the training profile: counts in bins, which drift is measured against

No file is a pickle. `write_bundle` replaces a bundle so that a reader sees the old one or the new one, never a mix:
files are named by their content, and bundle.json is replaced last, in one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from custom_runtime.active import CONTRACT
from custom_runtime.errors import BundleError, ContractMismatch
from custom_runtime.schema import Value

MANIFEST = "bundle.json"
SCHEMA = 1
SUFFIXES: Mapping[str, str] = {
    "onnx": ".onnx",
    "forest": ".npz",
    "xgboost": ".ubj",
    "explanation": ".json",
    "profile": ".json",
    "encoded_xgboost": ".ubj",
    "lightgbm": ".txt",
    "catboost": ".cbm",
}


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of the bundle: its name in the directory, sha256 (hex) and size in bytes."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Parity:
    """What the import measured: the answers of what may serve the model compared with those of the registered model.

    max_abs_difference and tolerance are absolute for probabilities. relative: of a regression they are fractions of the
    answer's scale (handoff/conversion/parity.py).
    """

    rows: int
    max_abs_difference: float
    tolerance: float
    relative: bool = False

    @property
    def allowed(self) -> str:
        """The tolerance as text for messages."""
        return f"{self.tolerance:g} of the value" if self.relative else f"{self.tolerance:g}"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. `defaults` has a contract value for every feature (training medians and modes).

    task and classes: what the served graph answers, in the order of its columns.
    """

    directory: Path
    name: str
    version: str
    run_id: str
    source: str
    flavor: str
    contract_fingerprint: str
    defaults: Mapping[str, Value]
    parity: Parity
    files: Mapping[str, BundleFile]
    task: str
    classes: tuple[str, ...]

    def path(self, role: str) -> Path:
        """Return the path of a role's file (one of SUFFIXES). Raises BundleError when the bundle has none."""
        if role not in self.files:
            raise BundleError(f"bundle {self.directory} has no {role} file; it has: {', '.join(self.files)}")
        return self.directory / self.files[role].name


def bundle_directory(uri: str | None, settings_file: str | None, default: Path) -> Path:
    """Return the directory of the bundle: what a model's URI names, or else `default`.

    MLServer sets the URI to the folder of model-settings.json (settings_file) where none is given; that folder holds no
    bundle. A folder that was given is taken even when it holds none: another model must not answer in its place.
    """
    if not uri:
        return default
    directory = Path(uri.removeprefix("file://"))
    source = Path(settings_file).parent if settings_file else None
    return directory if (directory / MANIFEST).exists() or directory != source else default


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
            f"make one: churn-serving import models:/{CONTRACT.name}@champion --output {directory}"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{manifest} cannot be read: {error}") from error
    bundle = _parse(directory, stored)
    if bundle.contract_fingerprint != CONTRACT.fingerprint:
        raise ContractMismatch(
            f"bundle {directory} was made for contract {bundle.contract_fingerprint}, this server has "
            f"{CONTRACT.fingerprint}; import the model again, or run the image that belongs to the bundle"
        )
    task = CONTRACT.task
    if (bundle.task, bundle.classes) != (task.kind, task.classes):
        raise ContractMismatch(
            f"bundle {directory} answers {bundle.task} {list(bundle.classes)}, the contract {CONTRACT.name!r} "
            f"{task.kind} {list(task.classes)}; import the model again, or run the image that belongs to the bundle"
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
            # Bundles of earlier versions have neither, and were all made for the contract that the fingerprint names.
            task=str(stored.get("task", CONTRACT.task.kind)),
            classes=tuple(stored.get("classes", CONTRACT.task.classes)),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(
            f"{directory / MANIFEST} lacks or misspells a field: {error!r}; import the model again"
        ) from error
    missing = [feature.name for feature in CONTRACT.features if feature.name not in bundle.defaults]
    if bundle.contract_fingerprint == CONTRACT.fingerprint and missing:
        raise BundleError(f"{directory / MANIFEST} has no default for {', '.join(missing)}; import the model again")
    return bundle


def _verify(path: Path, file: BundleFile) -> None:
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"bundle file {path} cannot be read: {error.strerror}; import the model again") from error
    if sha256 != file.sha256:
        raise BundleError(f"bundle file {path} was altered: sha256 is {sha256}, bundle.json says {file.sha256}")


def write_bundle(
    directory: Path,
    contents: Mapping[str, bytes],
    *,
    name: str,
    version: str,
    run_id: str,
    source: str,
    flavor: str,
    defaults: Mapping[str, Value],
    parity: Parity,
) -> Bundle:
    """Write a bundle atomically; contents: role (one of SUFFIXES) -> the file's bytes. Returns it, verified."""
    directory.mkdir(parents=True, exist_ok=True)
    previous = _named_files(directory)
    files = {}
    for role, content in contents.items():
        sha256 = hashlib.sha256(content).hexdigest()
        file = BundleFile(f"model-{sha256[:12]}{SUFFIXES[role]}", sha256, len(content))
        _replace(directory / file.name, content)
        files[role] = file
    bundle = Bundle(
        directory=directory,
        name=name,
        version=version,
        run_id=run_id,
        source=source,
        flavor=flavor,
        contract_fingerprint=CONTRACT.fingerprint,
        defaults=dict(defaults),
        parity=parity,
        files=files,
        task=CONTRACT.task.kind,
        classes=CONTRACT.task.classes,
    )
    manifest = {"schema": SCHEMA} | {key: value for key, value in asdict(bundle).items() if key != "directory"}
    _replace(directory / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    # The files of the previous bundle stay, for a reader that has just read its manifest; older files are deleted.
    kept = previous | {file.name for file in files.values()}
    for path in directory.glob("model-*"):
        if path.name not in kept:
            path.unlink(missing_ok=True)
    return read_bundle(directory)


def _named_files(directory: Path) -> set[str]:
    try:
        stored = json.loads((directory / MANIFEST).read_bytes())
        return {file["name"] for file in stored["files"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
