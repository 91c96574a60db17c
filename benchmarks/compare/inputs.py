"""The inputs of the comparison, the same for every server: keys, features and model.

The project's servers read their own feature store. The peers read a plain table with a column for each feature, as a
team would typically have it. MLServer's stock runtime gets the feature vectors in the request.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import MeasurementError
from custom_runtime.active import CONTRACT
from custom_runtime.features.adapters import open_store
from custom_runtime.model.bundle import read_bundle
from custom_runtime.model.encoding import Matrix

KEYS = range(1, 7044)
FETCH_TIMEOUT_S = 10.0
LOAD_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """rows: float32 [len(keys), WIDTH], in the keys' order. table: the peers' SQLite file.

    model, onnx: the same model as .ubj and as .onnx.
    """

    keys: range
    rows: Matrix
    table: Path
    model: Path
    onnx: Path
    version: str


def prepare_inputs(root: Path, directory: Path, *, say: Callable[[str], None]) -> Inputs:
    """Make the bundle and the features when they are missing, and the peers' table. Raises MeasurementError."""
    from handoff.prepare import prepare

    prepare(root / "var" / "bundle", root / "var" / "stock", say=say)
    features = root / "var" / "features.db"
    if not features.exists():
        load_features(root, f"sqlite:///{features}")
    return read_inputs(root / "var" / "bundle", f"sqlite:///{features}", directory)


def read_inputs(bundle: Path, store: str, directory: Path) -> Inputs:
    """Read what is served, and write the peers' table into `directory`. Raises MeasurementError."""
    rows = asyncio.run(_rows(store))
    directory.mkdir(parents=True, exist_ok=True)
    table = directory / "customers.db"
    _write_table(table, rows)
    served = read_bundle(bundle)
    return Inputs(KEYS, rows, table, served.path("xgboost"), served.path("onnx"), served.version)


def load_features(root: Path, store: str) -> None:
    """Load the reference table into a feature store with the project's own command."""
    command = [sys.executable, "scripts/load_features.py", "--store", store]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False)
    if done.returncode:
        raise MeasurementError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")


async def _rows(url: str) -> Matrix:
    store = open_store(url)
    await store.open()
    try:
        fetched = await store.fetch(KEYS, timeout_s=FETCH_TIMEOUT_S)
    finally:
        await store.close()
    if not fetched.updated_at.all():
        raise MeasurementError(f"{url} lacks reference rows; run churn-serving features load --store {url}")
    return fetched.rows


def _write_table(path: Path, rows: Matrix) -> None:
    path.unlink(missing_ok=True)
    columns = ", ".join(f"{feature.name} REAL NOT NULL" for feature in CONTRACT.features)
    marks = ", ".join("?" * (len(CONTRACT.features) + 1))
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE customers ({CONTRACT.key} INTEGER PRIMARY KEY, {columns})")
        records = [(key, *map(float, row)) for key, row in zip(KEYS, rows, strict=True)]
        connection.executemany(f"INSERT INTO customers VALUES ({marks})", records)  # noqa: S608 (query marks)
    connection.close()
