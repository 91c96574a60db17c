"""The sizes of an image's parts: every file counts for the distribution or system layer that installed it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from handoff.errors import ImageError

LARGEST = 10
DEBIAN, PYTHON, MODEL, SERVICE = "Debian", "Python", "model", "service"
INTERPRETER = re.compile(r"usr/(local/)?(bin/python3|lib/(python3|libpython3|x86_64-linux-gnu/libpython3))")
SITE_PACKAGES = re.compile(r"opt/serving/python/lib/python[^/]+/site-packages/(.*)")
BYTECODE = re.compile(r"(.*?)__pycache__/([^/]+)\.cpython-\d+\.pyc")

# Why each part is there. A part that grows into the ten largest without a reason here fails the image test.
REASONS: Mapping[str, str] = {
    DEBIAN: "The base: libc, certificates, and the shell that Seldon's preStop hook calls. "
    "apt and perl come with every Debian image.",
    PYTHON: "The interpreter and its standard library.",
    "scipy": "XGBoost imports it. Only `SERVING_SCORER=xgboost` loads either.",
    "onnxruntime": "Scores models that are not served as bit vectors ([ADR 25](adr/0025-bit-vectors.md)).",
    "pyarrow": "Prediction records as Parquet; imported only where `SERVING_RECORDS` is set.",
    "numpy": "Feature rows, batches and tensors.",
    "pandas": "MLServer imports it when it starts, for a codec that this service does not use.",
    "xgboost-cpu": "The registered model scored by XGBoost itself (`SERVING_SCORER=xgboost`), for when ONNX Runtime is "
    "in doubt. The build without GPU code: the usual one has 226 MB.",
    "grpcio": "The V2 protocol over gRPC.",
    "uvloop": "The event loop.",
    "redis": "The networked feature store.",
    "pydantic-core": "Validation of every request.",
    "opentelemetry-semantic-conventions": "MLServer imports its tracing when it starts.",
    "aiokafka": "MLServer imports its Kafka server when it starts, used or not.",
    "protobuf": "gRPC messages.",
    "fastapi-offline": "Swagger UI for `/docs`, without internet.",
    "pydantic": "The contract's models.",
    "tzdata": "Asked for by pandas.",
    MODEL: "The bundle that was baked in.",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the image: its name, its size and why it is there."""

    name: str
    size_bytes: int
    reason: str


def measure(root: Path) -> tuple[int, tuple[Part, ...]]:
    """Return the size of a mounted image and its ten largest parts, largest first.

    Raises ImageError when one of the ten has no reason in REASONS.
    """
    owners = _owners(root)
    sizes: Counter[str] = Counter()
    for path, size_bytes in _files(root):
        sizes[_part_of(path, owners)] += size_bytes
    largest = sizes.most_common(LARGEST)
    unexplained = [f"{name} ({size_bytes / 1e6:.0f} MB)" for name, size_bytes in largest if name not in REASONS]
    if unexplained:
        raise ImageError(f"no reason is given for {', '.join(unexplained)}; write it down in {__name__}.REASONS")
    return sizes.total(), tuple(Part(name, size_bytes, REASONS[name]) for name, size_bytes in largest)


def _files(root: Path) -> Iterator[tuple[str, int]]:
    seen: set[int] = set()
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            status = path.lstat()
            if status.st_ino not in seen:  # a hard link takes no more space
                seen.add(status.st_ino)
                yield str(path.relative_to(root)), status.st_size


def _owners(root: Path) -> dict[str, str]:
    """Return file in site-packages -> the distribution whose RECORD lists it."""
    owners = {}
    for record in root.glob("opt/serving/python/lib/python*/site-packages/*.dist-info/RECORD"):
        name = record.parent.name.removesuffix(".dist-info").rpartition("-")[0].replace("_", "-").lower()
        for line in record.read_text(encoding="utf-8").splitlines():
            owners[line.split(",", 1)[0]] = name
    return owners


def _part_of(path: str, owners: Mapping[str, str]) -> str:
    if installed := SITE_PACKAGES.fullmatch(path):
        return owners.get(BYTECODE.sub(r"\1\2.py", installed[1]), PYTHON)
    if path.startswith("mnt/models/"):
        return MODEL
    if path.startswith("opt/serving/"):
        return PYTHON if path.startswith("opt/serving/python/") else SERVICE
    return PYTHON if INTERPRETER.match(path) else DEBIAN
