"""A rollout as lines of JSON on a stream: what the log of a controller's pod holds."""

from __future__ import annotations

from typing import TextIO

from rollout.engine.record import SAMPLE, Record
from rollout.engine.state import RolloutState


class Lines:
    """A subscriber that writes one line of JSON for each change, and none for samples."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def notify(self, record: Record, state: RolloutState) -> None:
        """Write the record, in one write: several drivers share the stream."""
        if record.event != SAMPLE:
            self._stream.write(record.to_line() + "\n")
            self._stream.flush()
