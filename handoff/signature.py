"""Whether a registered model takes what the contract sends: names, order and types of its input columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from custom_runtime.contract import FEATURES, FINGERPRINT
from handoff.errors import ImportRefused
from handoff.registered import RegisteredModel

# MLflow's names of the column types that hold a float32 without loss.
ALLOWED_TYPES = ("float", "double")


def check_signature(registered: RegisteredModel) -> None:
    """Raise ImportRefused, naming each column that differs, when the model was made for another contract."""
    uri = registered.version.uri
    if registered.signature is None:
        raise ImportRefused(f"{uri} was registered without a signature; log it with one: a float column per feature")
    differences = [text for text in _differences(registered.signature) if text]
    if differences:
        raise ImportRefused(
            f"the signature of {uri} is not the contract's: {'; '.join(differences)}; train again: scripts/train.py"
        )
    # The signature knows nothing of units and categories, the fingerprint does. A foreign model may have none.
    if registered.contract_fingerprint not in (None, FINGERPRINT):
        raise ImportRefused(
            f"{uri} was trained for contract {registered.contract_fingerprint}, this is {FINGERPRINT}: "
            "units or categories have changed; train again: scripts/train.py"
        )


def _differences(signature: Sequence[tuple[str, str]]) -> list[str]:
    pairs = zip_longest([feature.name for feature in FEATURES], signature)
    return [_difference(place, wanted, found) for place, (wanted, found) in enumerate(pairs, start=1)]


def _difference(place: int, wanted: str | None, found: tuple[str, str] | None) -> str:
    if found is None:
        return f"column {place} is missing, wanted: {wanted}"
    name, kind = found
    if wanted is None:
        return f"column {place} is {name}, wanted: no such column"
    if name != wanted:
        return f"column {place} is {name}, wanted: {wanted}"
    return "" if kind in ALLOWED_TYPES else f"column {place} ({name}) is {kind}, wanted: {' or '.join(ALLOWED_TYPES)}"
