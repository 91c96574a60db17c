"""One SeldonDeployment as files on this machine, in place of an API server.

deployment.json     the live object; replaced in one rename, under a lock, with a growing resourceVersion
status.json         its status, written by local_seldon only
runtime.json        where the processes, ports and sockets are, written by local_seldon only
controls.json       conditions that a test sets (Controls): a dead operator, an autoscaler's target, slow pulls
lease.json          the rollout's lock
events.jsonl        the audit trail; it is kept when the deployment is deleted

The resourceVersion grows with every change and the generation with every change of the spec, as in the cluster.

JSON Patches (RFC 6902) are applied as by an API server; adapters that are their own store use `apply` too.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonpatch
import jsonpointer
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from rollout.errors import Conflict, ManifestError, NotFound, Rejected, Unavailable
from rollout.manifest.parsing import parse
from rollout.manifest.webhook_rules import webhook
from rollout.targets.target import LeaseRecord, Operation

DEFAULT_NAMESPACE = "default"
WEBHOOK = '"v1.vseldondeployment.kb.io"'
Document = dict[str, Any]


class Controls(BaseModel):
    """Conditions that a test or a person sets for a deployment on this machine.

    operator_alive: while it is False the webhook does not answer, so every change of the deployment gets a 500,
    and weights, predictors and status do not follow the spec; pods, autoscaler, endpoints and mesh still work.
    replicas: by predictor, the autoscaler's target, limited by minReplicas and maxReplicas of hpaSpec.
    image_pull_s: by predictor, how long a new pod waits before its process starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator_alive: bool = True
    replicas: dict[str, PositiveInt] = {}
    image_pull_s: dict[str, NonNegativeFloat] = {}


class LocalStore:
    """The files of one deployment. Several processes may write at the same time: a lock file serialises the writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.object_file = directory / "deployment.json"
        self.status_file = directory / "status.json"
        self.runtime_file = directory / "runtime.json"
        self.controls_file = directory / "controls.json"
        self.lease_file = directory / "lease.json"
        self.events_file = directory / "events.jsonl"

    @classmethod
    def of(cls, root: Path, namespace: str, name: str) -> LocalStore:
        """Return the store of a deployment below the state directory."""
        return cls(root / (namespace or DEFAULT_NAMESPACE) / name)

    def read(self) -> Document:
        """Return the live object with its status. Raises NotFound."""
        manifest = self._object()
        status = read_json(self.status_file)
        return {**manifest, "status": status} if status else manifest

    def runtime(self) -> Document:
        """Return processes, ports and sockets; empty when nothing runs."""
        return read_json(self.runtime_file) or {}

    def controls(self) -> Controls:
        """Return the conditions that are set; the defaults if there are none."""
        return Controls.model_validate(read_json(self.controls_file) or {})

    def control(self, controls: Controls) -> None:
        """Set these conditions; they replace the earlier ones."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.controls_file, controls.model_dump())

    def put(self, manifest: Mapping[str, Any]) -> Document:
        """Store a manifest as `kubectl apply` would: its spec replaces the live one, its annotations are added.

        Raises Rejected with every broken rule, Unavailable when the operator is dead.
        """
        with self._locked():
            live = read_json(self.object_file) or {}
            old, new = live.get("metadata", {}), manifest.get("metadata", {})
            merged = {**old, **new, "namespace": new.get("namespace") or DEFAULT_NAMESPACE}
            for field in ("labels", "annotations"):
                if both := {**old.get(field, {}), **new.get(field, {})}:
                    merged[field] = both
            document = {key: value for key, value in manifest.items() if key != "status"}
            return self._store({**document, "metadata": merged}, live)

    def patch(self, operations: Sequence[Operation], *, dry_run: bool = False) -> Document:
        """Apply a JSON Patch, all or nothing. Raises NotFound, Conflict, Rejected or Unavailable."""
        with self._locked():
            live = self._object()
            changed = apply(self.read(), operations)
            changed.pop("status", None)  # status is a subresource: a patch of the object does not change it
            return self._store(changed, live, dry_run=dry_run)

    def read_lease(self) -> LeaseRecord:
        """Return the lock's record; LeaseRecord() when there is none."""
        stored = read_json(self.lease_file)
        return LeaseRecord(**stored) if stored else LeaseRecord()

    def write_lease(self, record: LeaseRecord) -> LeaseRecord:
        """Replace the record whose version is `record.version`. Raises NotFound or Conflict."""
        with self._locked():
            self._object()
            stored = self.read_lease()
            if stored.version != record.version:
                raise Conflict(
                    f"the lease was written in between by {stored.holder or 'nobody'}: "
                    f"its version is {stored.version or 'none'}, not {record.version or 'none'}; read it again"
                )
            written = LeaseRecord(
                holder=record.holder,
                duration_s=record.duration_s,
                acquired_at_s=record.acquired_at_s,
                renewed_at_s=record.renewed_at_s,
                transitions=record.transitions,
                version=str(int(stored.version or 0) + 1),
            )
            fields = ("holder", "duration_s", "renewed_at_s", "transitions", "version", "acquired_at_s")
            write_json(self.lease_file, {field: getattr(written, field) for field in fields})
            return written

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Add one line to the audit trail."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.events_file.open("a", encoding="utf-8") as events:
            events.write(json.dumps(event) + "\n")

    def remove(self) -> None:
        """Delete the object and its files; the audit trail and the logs stay."""
        with self._locked():
            for file in (self.object_file, self.status_file, self.runtime_file, self.lease_file, self.controls_file):
                file.unlink(missing_ok=True)

    def _object(self) -> Document:
        if (live := read_json(self.object_file)) is None:
            name = f"{self.directory.parent.name}/{self.directory.name}"
            raise NotFound(f"no SeldonDeployment {name} on this machine; start it: churn-serving local up FILE")
        return live

    def _store(self, document: Document, live: Mapping[str, Any], *, dry_run: bool = False) -> Document:
        if not self.controls().operator_alive:  # its webhook has failurePolicy Fail and is called for every change
            raise Unavailable(f"500 Internal error occurred: failed calling webhook {WEBHOOK}: connection refused")
        try:
            broken = [problem for problem in webhook(parse(document)) if problem.severity == "error"]
        except ManifestError as error:
            raise Rejected(str(error)) from error
        if broken:
            raise Rejected("; ".join(str(problem) for problem in broken))
        old = live.get("metadata", {})
        version, generation = int(old.get("resourceVersion", 0)), int(old.get("generation", 0))
        changed = document.get("spec") != live.get("spec")
        document["metadata"] = {
            **document["metadata"],
            "resourceVersion": str(version),
            "generation": generation + 1 if changed else generation,
        }
        if document != live:
            document["metadata"]["resourceVersion"] = str(version + 1)
            if not dry_run:
                write_json(self.object_file, document)
        status = read_json(self.status_file)
        return {**document, "status": status} if status else document

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "deployment.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def read_json(file: Path) -> Document | None:
    """Return a file's JSON object, or None when the file does not exist."""
    try:
        document: Document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    return document


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Replace a file in one rename: a reader sees the old or the new content, never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(document, indent=1))
    os.replace(temporary, file)


def apply(manifest: Mapping[str, Any], operations: Sequence[Operation]) -> dict[str, Any]:
    """Return a patched copy. Raises Conflict naming the `test` that fails, Rejected for any other failure."""
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
