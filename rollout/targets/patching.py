"""JSON Patch (RFC 6902) as an API server applies it: for the adapters that are their own store."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jsonpatch
import jsonpointer

from rollout.errors import Conflict, Rejected
from rollout.targets.target import Operation


def apply(manifest: Mapping[str, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    """Return a patched copy. Raises Conflict naming the `test` that does not hold, Rejected for any other failure."""
    document: dict[str, Any] = copy.deepcopy(dict(manifest))
    for operation in operations:
        try:
            document = jsonpatch.apply_patch(document, [copy.deepcopy(dict(operation))])
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
            if operation.get("op") == "test":
                raise Conflict(f"{operation['path']} is not what it was when the patch was written") from error
            raise Rejected(f"{operation.get('op')} {operation.get('path')} cannot be applied: {error}") from error
    return document


def first_conflict(manifest: Mapping[str, Any], operations: Sequence[Operation]) -> str | None:
    """Return the path of the first `test` that the manifest does not meet, or None."""
    for operation in operations:
        if operation.get("op") == "test":
            try:
                apply(manifest, [operation])
            except Conflict:
                return str(operation["path"])
    return None
