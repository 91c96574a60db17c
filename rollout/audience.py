"""Who hears of a rollout: an audience, such as the log file, or several at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rollout.record import Record
from rollout.state import RolloutState


class Audience(Protocol):
    """Whoever wants to know what happens: log, report, terminal, webhook, metrics."""

    def hear(self, record: Record, state: RolloutState) -> None:
        """Take in one record. Must not raise and must not block for long."""


class Log:
    """An audience that appends one line of JSON for each record to a file."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():  # a promoter that was killed may have left half a line
            content = file.read_bytes()
            os.truncate(file, content.rfind(b"\n") + 1)
        self.file = file

    def hear(self, record: Record, state: RolloutState) -> None:
        """Append, in one write: a crash loses the last line at most."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(record.to_line() + "\n")


class Everybody:
    """Passes each record on to every audience, in their order."""

    def __init__(self, audiences: Sequence[Audience]) -> None:
        self._audiences = audiences

    def hear(self, record: Record, state: RolloutState) -> None:
        """Take in one record."""
        for audience in self._audiences:
            audience.hear(record, state)
