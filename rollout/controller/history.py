"""The logs of rollouts on disk: one file of JSON lines for each rollout, for the pages of running and past ones."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from rollout.engine.announcer import Log
from rollout.engine.record import SAMPLE, Record, read
from rollout.engine.state import RolloutState
from rollout.errors import ReportError

log = structlog.get_logger(__name__)
KEPT = 20
"""Logs of each deployment that are kept; the oldest ones are deleted."""
SAMPLES_PER_AGE = 200.0
"""A sample is written when the rollout has become older by this part of its age, so a long one stays readable."""
NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Past:
    """One rollout that has a log: its deployment, its id, and the last record."""

    namespace: str
    name: str
    id: str
    last: Record


class History:
    """Logs below a directory, as NAMESPACE/NAME-ID.jsonl."""

    def __init__(self, directory: Path, *, kept: int = KEPT) -> None:
        self._directory = directory
        self._kept = kept

    def rollouts(self) -> list[Past]:
        """Return all rollouts that have a readable log, the newest first."""
        found = []
        for file in sorted(self._directory.glob("*/*.jsonl"), key=_changed_s, reverse=True):
            name, _, rollout_id = file.stem.rpartition("-")
            try:
                found.append(Past(file.parent.name, name, rollout_id, _last(file)))
            except (OSError, ValueError) as error:
                log.warning("log_not_read", file=str(file), detail=str(error))
        return found

    def records(self, namespace: str, name: str, rollout_id: str) -> tuple[Record, ...]:
        """Return the records of one rollout, oldest first. Raises ReportError."""
        if not all(NAME.fullmatch(part) for part in (namespace, name, rollout_id)):
            raise ReportError(f"there is no rollout {rollout_id!r} of {namespace!r}/{name!r}")
        file = self.file(namespace, name, rollout_id)
        try:
            with file.open(encoding="utf-8") as lines:
                records = read(lines)
        except (OSError, ValueError) as error:
            raise ReportError(f"the log of {namespace}/{name} {rollout_id} cannot be read: {error}") from error
        if not records:
            raise ReportError(f"the log of {namespace}/{name} {rollout_id} is empty")
        return records

    def file(self, namespace: str, name: str, rollout_id: str) -> Path:
        """Return where the log of a rollout is."""
        return self._directory / namespace / f"{name}-{rollout_id}.jsonl"

    def prune(self, namespace: str, name: str) -> None:
        """Delete the oldest logs of a deployment."""
        files = [file for file in (self._directory / namespace).glob(f"{name}-*.jsonl") if _named(file, name)]
        for file in sorted(files, key=_changed_s, reverse=True)[self._kept :]:
            file.unlink(missing_ok=True)


class HistoryWriter:
    """A subscriber that writes the log of each rollout of one deployment; of samples ever fewer as time passes."""

    def __init__(self, history: History, namespace: str, name: str) -> None:
        self._history = history
        self._namespace = namespace
        self._name = name
        self._lock = threading.Lock()
        self._id = ""
        self._log: Log | None = None
        self._sampled_s = 0.0

    def notify(self, record: Record, state: RolloutState) -> None:
        """Process one record."""
        with self._lock:
            if self._log is None or self._id != state.id:
                self._history.prune(self._namespace, self._name)
                self._id, self._sampled_s = state.id, 0.0
                self._log = Log(self._history.file(self._namespace, self._name, state.id))
            age_s = record.at_s - state.started_at_s
            if record.event == SAMPLE:
                if record.at_s - self._sampled_s < age_s / SAMPLES_PER_AGE:
                    return
                self._sampled_s = record.at_s
            self._log.notify(record, state)


def _named(file: Path, name: str) -> bool:
    return file.stem.rpartition("-")[0] == name


def _changed_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _last(file: Path) -> Record:
    """Return the last whole record. Raises OSError, and ValueError when there is none."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 65536))
        lines = stream.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            return Record.from_line(line)
        except ValueError:
            continue
    raise ValueError("no record at its end")
