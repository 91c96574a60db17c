"""One reference dataset, both trained models and one registry for the whole session of a worker (about 4 s)."""

import os

# Threads of OpenMP wait for each other in a loop: on a busy machine two take minutes for what one does in 0.1 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from handoff.dataset import Dataset, read_dataset
from handoff.registered import CHALLENGER, CHAMPION, ModelVersion
from handoff.registry import Registry
from handoff.training import FLAVORS, TrainedModel, train


@dataclass(frozen=True)
class Registered:
    registry: Registry
    versions: dict[str, ModelVersion]


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return read_dataset()


@pytest.fixture(scope="session")
def trained(dataset: Dataset) -> dict[str, TrainedModel]:
    return {flavor: train(dataset, flavor) for flavor in FLAVORS}


@pytest.fixture(scope="session")
def registered(trained: dict[str, TrainedModel], tmp_path_factory: pytest.TempPathFactory) -> Registered:
    """Version 1 is XGBoost, the champion; version 2 is scikit-learn, the challenger. Do not move these aliases."""
    registry = Registry(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}")
    aliases = {"xgboost": CHAMPION, "sklearn": CHALLENGER}
    versions = {flavor: registry.register(trained[flavor], alias=alias) for flavor, alias in aliases.items()}
    return Registered(registry, versions)


@pytest.fixture
def in_registry(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """The shared registry, also for what reads MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.registry.uri)
    return registered


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]
