"""The reference rows of a registered model: what an import compares its conversion on, kept beside the run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from custom_runtime.encoding import Matrix

REFERENCE = "reference.npz"


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
