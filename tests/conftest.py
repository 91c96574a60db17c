"""What every test of a running service shares: one trained, registered, imported and loaded world a session.

No test imports mlserver: its protobuf types and tritonclient's have the same names, and one process holds one of them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

from tests.support.programs import GUARD_S, ROOT
from tests.support.serving import Server, World, serving

# The bundle and the stock files as `make serve` makes them, and what the registered model itself says of everyone.
BUILD = """
import sys
from pathlib import Path
import numpy as np
from handoff.dataset import iter_chunks
from handoff.prepare import prepare
from handoff.registry import Registry
bundle, stock, expected = map(Path, sys.argv[1:])
prepare(bundle, stock)
registry = Registry()
chunks = list(iter_chunks(None))
ids, rows = (np.concatenate(parts) for parts in zip(*chunks))
scores = {alias: registry.download(registry.resolve(f"models:/churn@{alias}")).model.predict_proba(rows)[:, 1]
          for alias in ("champion", "challenger")}
np.savez(expected, ids=ids, rows=rows, **scores)
"""


@pytest.fixture(autouse=True, scope="module")
def _mlflow_environment() -> Iterator[None]:
    """`mlflow.set_tracking_uri` writes os.environ, which processes that later tests start would inherit."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> World:
    """Built once, by the commands a user runs, however many workers share it."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "world"
    built = World(root)
    with FileLock(f"{root}.lock"):
        if not (root / "done").exists():
            root.mkdir()
            shutil.copytree(ROOT / "model-settings", built.model_settings)
            environment = {"MLFLOW_TRACKING_URI": built.registry}
            _run("-c", BUILD, str(built.bundle), str(built.stock), str(built.expected), environment=environment)
            _run("scripts/load_features.py", "--store", built.store, environment=environment)
            (root / "done").touch()
    return built


def _run(*arguments: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service as `make serve` runs it. For tests that leave it as they found it."""
    with serving(world.environment, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def plain_server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same runtime under an unmodified `mlserver start model-settings`, the stock runtimes beside it."""
    with serving(
        world.environment,
        tmp_path_factory.mktemp("plain") / "log",
        command=(str(Path(sys.executable).parent / "mlserver"), "start", str(world.model_settings)),
    ) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.rest, timeout=GUARD_S) as opened:
        yield opened
