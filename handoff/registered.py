"""The content of a registry as plain values; imports no MLflow, which takes seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_runtime.active import CONTRACT
from custom_runtime.model.encoding import Matrix
from custom_runtime.schema import Value
from handoff.errors import RegistryError

DEFAULT_TRACKING_URI = "sqlite:///var/mlflow.db"
CHAMPION = "champion"
CHALLENGER = "challenger"

_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True, slots=True)
class ModelUri:
    """models:/<name>@<alias> or models:/<name>/<version>: exactly one of alias and version is not empty."""

    name: str
    alias: str
    version: str

    @classmethod
    def parse(cls, uri: str) -> ModelUri:
        """Read a model URI. Raises RegistryError when it is neither form."""
        parts = _MODEL_URI.fullmatch(uri)
        if parts is None:
            raise RegistryError(
                f"{uri!r} is no model URI; allowed: models:/{CONTRACT.name}@{CHAMPION} or models:/{CONTRACT.name}/7"
            )
        return cls(parts["name"], parts["alias"] or "", parts["version"] or "")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version in the registry. `uri` names the version, never an alias."""

    name: str
    version: str
    run_id: str

    @property
    def uri(self) -> str:
        """models:/<name>/<version>."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class Reference:
    """Rows that were logged with a run: what an import compares on, and what an evaluation measures on.

    rows: float32 [n, WIDTH]. labels: [n], int8 (the class) or float64 (the value), None where none were logged.
    held_out: bool [n], the rows that the model's evaluation did not train on. held_out_answers: float64
    [held-out rows, outputs], what the model that was fitted without them answers; the registered one may have been
    fitted on all rows since.
    """

    rows: Matrix
    labels: NDArray[Any] | None = None
    held_out: NDArray[np.bool_] | None = None
    held_out_answers: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A registered version. Nothing of it is unpickled before `load` is called.

    signature: (name, MLflow type) of each input column, None when it was logged without one. contract_fingerprint,
    defaults and reference are None where the run has none: churn-serving train logs all three. load: returns the model.
    load_example: returns the logged input example as a frame, None where there is none.
    """

    version: ModelVersion
    flavor: str
    load: Callable[[], Any]
    signature: tuple[tuple[str, str], ...] | None
    contract_fingerprint: str | None
    defaults: Mapping[str, Value] | None
    reference: Reference | None
    load_example: Callable[[], Any] = lambda: None

    @property
    def model(self) -> Any:
        """The model, loaded now if it is not yet."""
        return self.load()


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the SQLite file under var/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a sqlite:/// URI, None for any other registry."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
