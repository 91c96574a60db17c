"""Prepares what the server needs: trains, registers and imports what is missing, and nothing else.

When nothing has changed this costs a few milliseconds: neither MLflow nor scikit-learn is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from custom_runtime.active import CONTRACT
from custom_runtime.errors import StartupError
from custom_runtime.model.bundle import read_bundle
from handoff.errors import HandoffError, RegistryError
from handoff.registered import CHALLENGER, CHAMPION, sqlite_file, tracking_uri

if TYPE_CHECKING:
    from handoff.registry import Registry
    from handoff.training import Flavor

# The two members of the model's family: the champion is served, both feed MLServer's own runtimes.
ALIASES: Mapping[str, Flavor] = {CHAMPION: "xgboost", CHALLENGER: "sklearn"}
STAMP = "prepared.json"


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
    bundle: Path = Path("var/bundle"), stock: Path = Path("var/stock"), *, say: Callable[[str], None] = print
) -> None:
    """Train and register what the registry lacks, import the champion into `bundle`, write the stock files.

    say: receives one line for each completed step; none when nothing is missing. Raises HandoffError.
    """
    stamp = stock / STAMP
    if _is_prepared(bundle, stock, stamp):
        return
    # imported here, because it takes seconds that a second start does not need
    from handoff.importing import check_model
    from handoff.registry import Registry
    from handoff.training import write_stock

    registry = Registry()
    _register_missing(registry, say)
    written = []
    for alias in ALIASES:
        if alias != CHAMPION and registry.contract_of(CONTRACT.name, alias) is None:
            continue
        try:
            checked = check_model(registry, f"models:/{CONTRACT.name}@{alias}")
        except HandoffError as error:
            if alias == CHAMPION:
                raise
            say(f"left out {alias}: {error}")  # what is served is the champion
            continue
        written.append(write_stock(checked.model, stock).name)
        parity = f"within {checked.parity.max_abs_difference:.1g} on {checked.parity.rows:,} rows"
        if alias == CHAMPION:
            checked.write(bundle)
            say(f"imported {checked.registered.version.uri} ({alias}) into {bundle}; ONNX agrees {parity}")
        else:
            say(f"checked {checked.registered.version.uri} ({alias}); ONNX agrees {parity}")
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


def _register_missing(registry: Registry, say: Callable[[str], None]) -> None:
    missing = [alias for alias in ALIASES if _is_missing(registry, alias, say)]
    if CONTRACT.reference_table is None and CHAMPION in missing:
        raise RegistryError(
            f"models:/{CONTRACT.name}@{CHAMPION} does not exist, and the contract has no reference table to train on; "
            f"register a model and run: churn-serving promote models:/{CONTRACT.name}/1"
        )
    if not missing or CONTRACT.reference_table is None:
        return
    from handoff.dataset import read_dataset
    from handoff.training import train

    dataset = read_dataset()
    for alias in missing:
        trained = train(dataset, ALIASES[alias])
        version = registry.register(trained, alias=alias)
        name, value = next(iter(trained.metrics.items()))
        say(f"trained {trained.flavor} on {trained.source}: held-out {name} {value:.4f}; {version.uri}")


def _is_missing(registry: Registry, alias: str, say: Callable[[str], None]) -> bool:
    contract = registry.contract_of(CONTRACT.name, alias)
    if contract is None:
        return True
    # After an edit of contract.py the registry beside it is brought up to date; a team's own server is left alone, and
    # the import says what differs.
    if contract in ("", CONTRACT.fingerprint) or sqlite_file(registry.uri) is None:
        return False
    say(f"models:/{CONTRACT.name}@{alias} was trained for another contract; training it again")
    return True
