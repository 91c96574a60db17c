"""Writes a model bundle (bundle.py) so that a reader sees the old one or the new one, never half of each.

Files are named by their content and bundle.json is replaced last, in one rename.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from custom_runtime.bundle import MANIFEST, SCHEMA, Bundle, BundleFile, Parity, read_bundle
from custom_runtime.contract import FINGERPRINT

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "xgboost": ".ubj"}


def write_bundle(
    directory: Path,
    contents: Mapping[str, bytes],
    *,
    name: str,
    version: str,
    run_id: str,
    source: str,
    flavor: str,
    defaults: Mapping[str, float | str],
    parity: Parity,
) -> Bundle:
    """Write a bundle atomically; contents: role ("onnx", "xgboost") -> the file's bytes. Returns it, verified."""
    directory.mkdir(parents=True, exist_ok=True)
    previous = _named_files(directory)
    files = {}
    for role, content in contents.items():
        sha256 = hashlib.sha256(content).hexdigest()
        file = BundleFile(f"model-{sha256[:12]}{SUFFIXES[role]}", sha256, len(content))
        _replace(directory / file.name, content)
        files[role] = file
    bundle = Bundle(directory, name, version, run_id, source, flavor, FINGERPRINT, dict(defaults), parity, files)
    manifest = {"schema": SCHEMA} | {key: value for key, value in asdict(bundle).items() if key != "directory"}
    _replace(directory / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
    # The bundle before this one stays whole for a reader that has just read its manifest; older files go.
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
