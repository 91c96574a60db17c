"""Prepares what the server needs: a champion, its bundle, and feature rows in the store; nothing that is there already.

The champion is whatever the registry says. A registry without one gets its first: the newest version that is
registered; or, where there is none, what the team's training script registers; or, for a contract with a reference
table, this project's own two models.

When nothing has changed this costs a few milliseconds: neither MLflow nor scikit-learn is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StartupError
from custom_runtime.model.bundle import read_bundle
from handoff.errors import HandoffError, RegistryError, TrainingRefused
from handoff.registered import CHALLENGER, CHAMPION, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from custom_runtime.model.encoding import Matrix
    from handoff.registered import ModelVersion
    from handoff.registry import Registry
    from handoff.training import Flavor

# This project's own models of the reference table; both feed MLServer's own runtimes.
ALIASES: Mapping[str, Flavor] = {CHAMPION: "xgboost", CHALLENGER: "sklearn"}
STAMP = "prepared.json"
# A training script may take minutes; one that waits for input would never end.
TRAINING_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The state that was prepared for. While it holds, there is nothing to do.

    registry_mtime_ns and registry_bytes are of a SQLite registry's file, which change with every write, a moved alias
    included; both are 0 for a tracking server, which is asked again only when the bundle is missing.
    """

    registry: str
    registry_mtime_ns: int
    registry_bytes: int
    contract_fingerprint: str
    stock: tuple[str, ...]


def prepare(
    bundle: Path = Path("var/bundle"),
    stock: Path = Path("var/stock"),
    *,
    script: Path | None = None,
    data: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Import the champion into `bundle`, after setting a first one where there is none.

    stock: where the files for MLServer's own runtimes are written, for models that take the packed row.
    script: a training script of the team, run when the registry has no version; it registers with plain MLflow calls.
    data: rows to compare on where the champion's run has none; default: the contract's reference table.
    say: receives one line before what takes seconds and one for each completed step; none when nothing is missing.
    Raises HandoffError.
    """
    stamp = bundle.parent / STAMP
    if _is_prepared(bundle, stock, stamp):
        return
    say("preparing the model: MLflow and scikit-learn are imported, which takes some seconds")
    # imported here, because it takes seconds that a second start does not need
    from handoff.importing import check_model
    from handoff.registry import Registry
    from handoff.training import write_stock

    registry = Registry()
    _ensure_champion(registry, script, say)
    written = []
    for alias in ALIASES:
        if alias != CHAMPION and registry.contract_of(CONTRACT.name, alias) is None:
            continue
        uri = f"models:/{CONTRACT.name}@{alias}"
        say(f"importing {uri}: converting to ONNX, and comparing both on every reference row")
        try:
            checked = check_model(registry, uri, fallback=_rows_of(data))
        except HandoffError as error:
            if alias == CHAMPION:
                raise
            say(f"left out {alias}: {error}")  # what is served is the champion
            continue
        if checked.inputs.is_packed_row(CONTRACT.features):
            written.append(write_stock(checked.model, stock).name)
        parity = f"within {checked.parity.max_abs_difference:.1g} on {checked.parity.rows:,} rows"
        if alias == CHAMPION:
            checked.write(bundle)
            say(f"imported {checked.registered.version.uri} ({alias}) into {bundle}; the conversion agrees {parity}")
        else:
            say(f"checked {checked.registered.version.uri} ({alias}); the conversion agrees {parity}")
    stamp.write_text(json.dumps(asdict(_state(tuple(written)))) + "\n", encoding="utf-8")


def _is_prepared(bundle: Path, stock: Path, stamp: Path) -> bool:
    try:
        stored = json.loads(stamp.read_bytes())
        prepared = Prepared(**{**stored, "stock": tuple(stored["stock"])})
        read_bundle(bundle)
    except (OSError, ValueError, TypeError, KeyError, StartupError):
        return False
    return prepared == _state(prepared.stock) and all((stock / name).is_file() for name in prepared.stock)


def _state(stock: tuple[str, ...]) -> Prepared:
    uri = tracking_uri()
    file = sqlite_file(uri)
    found = file.stat() if file is not None and file.is_file() else None
    return Prepared(
        registry=uri,
        registry_mtime_ns=found.st_mtime_ns if found else 0,
        registry_bytes=found.st_size if found else 0,
        contract_fingerprint=CONTRACT.fingerprint,
        stock=stock,
    )


def _rows_of(data: Path | None) -> Callable[[], Matrix] | None:
    """Return a function that reads the rows to compare on; None where there is no table."""
    if data is None and CONTRACT.reference_table is None:
        return None

    def read() -> Matrix:
        import numpy as np

        from handoff.dataset import iter_chunks

        return np.concatenate([rows for _, rows in iter_chunks(data)])

    return read


def _ensure_champion(registry: Registry, script: Path | None, say: Callable[[str], None]) -> None:
    """Leave a champion as it is, set the first, and renew what this project trained for another contract."""
    contract = registry.contract_of(CONTRACT.name, CHAMPION)
    if contract is not None and not _is_outdated(registry, contract, CHAMPION, say):
        return
    if contract is None:
        version = registry.newest(CONTRACT.name)
        if version is not None:
            _set_first(registry, version, say)
            return
    if script is not None:
        _set_first(registry, _run_script(registry, script, say), say)
    elif CONTRACT.reference_table is not None:
        _train_missing(registry, say)
    else:
        raise RegistryError(
            f"the registry {registry.uri} has no model {CONTRACT.name}; register one, or name the script that does: "
            "churn-serving serve --prepare --train FILE"
        )


def _set_first(registry: Registry, version: ModelVersion, say: Callable[[str], None]) -> None:
    registry.set_alias(version, CHAMPION)
    say(f"{version.uri} is the champion: there was none")


def _run_script(registry: Registry, script: Path, say: Callable[[str], None]) -> ModelVersion:
    """Run a training script, and return the version that it registered."""
    before = registry.newest(CONTRACT.name)
    say(f"training: python {script}")
    registry.ensure_experiment(CONTRACT.name)
    environment = os.environ | {"MLFLOW_TRACKING_URI": registry.uri, "MLFLOW_EXPERIMENT_NAME": CONTRACT.name}
    try:
        done = subprocess.run(
            [sys.executable, str(script)], env=environment, check=False, timeout=TRAINING_LIMIT_S, stdout=sys.stderr
        )
    except subprocess.TimeoutExpired as error:
        raise TrainingRefused(f"{script} was still running after {TRAINING_LIMIT_S:g} s; run it by itself") from error
    if done.returncode:
        raise TrainingRefused(f"{script} ended with exit code {done.returncode}; what it printed is above")
    version = registry.newest(CONTRACT.name)
    if version is None or version == before:
        raise TrainingRefused(
            f"{script} registered no version of {CONTRACT.name} in {registry.uri}; "
            f'register it: log_model(..., registered_model_name="{CONTRACT.name}")'
        )
    return version


def _train_missing(registry: Registry, say: Callable[[str], None]) -> None:
    missing = [alias for alias in ALIASES if _is_missing(registry, alias, say)]
    from handoff.dataset import read_dataset
    from handoff.training import train

    dataset = read_dataset()
    for alias in missing:
        say(f"training {ALIASES[alias]} on {len(dataset.labels):,} rows of {dataset.source}")
        try:
            trained = train(dataset, ALIASES[alias])
        except TrainingRefused as error:
            if alias == CHAMPION:
                raise
            say(f"left out {alias}: {error}")  # what is served is the champion
            continue
        version = registry.register(trained, alias=alias)
        name, value = next(iter(trained.metrics.items()))
        say(f"trained {trained.flavor} on {trained.source}: held-out {name} {value:.4f}; {version.uri}")


def _is_missing(registry: Registry, alias: str, say: Callable[[str], None]) -> bool:
    contract = registry.contract_of(CONTRACT.name, alias)
    return contract is None or alias == CHAMPION or _is_outdated(registry, contract, alias, say)


def _is_outdated(registry: Registry, contract: str, alias: str, say: Callable[[str], None]) -> bool:
    # After an edit of the contract the registry beside it is brought up to date; a team's own server is left alone, and
    # the import says what differs.
    if contract in ("", CONTRACT.fingerprint) or sqlite_file(registry.uri) is None:
        return False
    say(f"models:/{CONTRACT.name}@{alias} was trained for another contract; training it again")
    return True
