"""The manifest file that a deployment here is made from: applied whenever it changes, as `kubectl apply` would."""

from __future__ import annotations

import hashlib
from pathlib import Path

import structlog

from local_seldon.deployment import read_manifest
from rollout.errors import RolloutError
from rollout.manifest.parsing import to_dict
from rollout.targets.local_store import LocalStore

log = structlog.get_logger()

APPLIED = "applied.sha256"  # of the manifest file that the live object was made from


class ManifestFile:
    """Writes what the file says into the store; `refused` is what is wrong with it now, "" where nothing is."""

    def __init__(self, path: Path, store: LocalStore) -> None:
        self._path = path
        self._store = store
        self._applied = ""
        self.refused = ""

    def apply(self, *, first: bool = False) -> bool:
        """Apply the file where its content is new, and tell whether there was news. Only the first time it raises."""
        applied_before = self._store.directory / APPLIED
        try:
            content = self._path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if digest == self._applied:
                return False
            self._applied = digest
            known = applied_before.read_text() if applied_before.exists() else ""
            if first and known == digest and self._store.object_file.exists():
                return False  # after a crash: what a rollout has changed since stays
            self._store.put(to_dict(read_manifest(content)))
            applied_before.write_text(digest)
            self.refused = ""
            log.info("manifest_applied", file=str(self._path))
        except (OSError, RolloutError) as error:
            if first:
                raise
            self.refused = f"{self._path}: {error}"
            log.warning("manifest_refused", file=str(self._path), error=str(error))
        return True
