"""One line of a rollout's log: what was observed, what was decided, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter

from rollout.analysis.counts import Counts
from rollout.analysis.verdict import GateResult

SAMPLE: Final = "Sample"
"""The event of a record that says again what the one before said."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event of a rollout; a log file holds one JSON object a line, oldest first.

    `at_s` is Unix time. `event` is a stable word (started, weights_set, sample, promoted, held, rolled_back, ...),
    `decision` what the state machine chose (empty where nothing was decided), `message` a sentence for a person.
    `phase` is where the rollout stands after it (Progressing, Held, Succeeded, RolledBack, Failed, ...).
    `weights_percent` is what the rollout asks for, `mesh_percent` what the mesh routed by then (empty: not known).
    `counts` are cumulative per predictor; a line with smaller ones than the line before begins a new source.
    """

    at_s: float
    event: str
    deployment: str
    stable: str
    canary: str
    step: int | None = None
    weights_percent: Mapping[str, int] = field(default_factory=dict)
    verdicts: tuple[GateResult, ...] = ()
    counts: Mapping[str, Counts] = field(default_factory=dict)
    decision: str = ""
    message: str = ""
    phase: str = ""
    mesh_percent: Mapping[str, int] = field(default_factory=dict)

    def differs(self) -> bool:
        """Whether the mesh is known to route by other weights than the rollout asks for."""
        return bool(self.mesh_percent) and _routed(self.mesh_percent) != _routed(self.weights_percent)

    def to_line(self) -> str:
        """Return the record as one line of JSON, without the newline."""
        return _JSON.dump_json(self).decode()

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Read what `to_line` wrote. Raises ValueError."""
        return _JSON.validate_json(line)


_JSON: Final = TypeAdapter(Record)


def _routed(weights: Mapping[str, int]) -> dict[str, int]:
    return {name: percent for name, percent in weights.items() if percent}


def read(lines: Iterable[str]) -> tuple[Record, ...]:
    """Return the records of a log; a last line that a crash cut off is left out, any other bad line is a ValueError."""
    kept = [line for line in lines if line.strip()]
    records = []
    for number, line in enumerate(kept, start=1):
        try:
            records.append(Record.from_line(line))
        except ValueError as error:
            if number == len(kept) and not line.endswith("\n"):
                break
            raise ValueError(f"line {number} of the log is not a record: {error}") from error
    return tuple(records)
