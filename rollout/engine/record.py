"""One line of a rollout's log: the observation, the decision and its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter

from rollout.analysis.counts import Counts, LatencyScale
from rollout.analysis.verdict import GateResult

SAMPLE: Final = "Sample"
"""The event of a record that repeats the decision of the record before it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event of a rollout. A log file has one JSON object per line, oldest first.

    `at_s` is Unix time. `event` is a stable name (started, weights_set, sample, promoted, held, rolled_back, ...),
    `decision` is the state machine's decision (empty if there was none), `message` is a sentence for a person.
    `phase` is the phase of the rollout after the event (Progressing, Held, Succeeded, RolledBack, Failed, ...).
    `weights_percent` are the requested weights, `mesh_percent` the weights in the mesh at that time (empty: unknown).
    `title` is how the step is shown: `30 %`, `shadow`, or empty before the first.
    `counts` are cumulative per predictor. If they are smaller than in the line before, a new source begins.
    `scale` are the latency buckets of the counts, and the objective.
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
    title: str = ""
    scale: LatencyScale = LatencyScale()  # noqa: RUF009 - frozen

    def differs(self) -> bool:
        """Whether the weights in the mesh are known and differ from the requested ones."""
        return bool(self.mesh_percent) and _routed(self.mesh_percent) != _routed(self.weights_percent)

    def to_line(self) -> str:
        """Return the record as one line of JSON, without the newline."""
        return _JSON.dump_json(self).decode()

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Read the output of `to_line`. Raises ValueError."""
        return _JSON.validate_json(line)


_JSON: Final = TypeAdapter(Record)


def _routed(weights: Mapping[str, int]) -> dict[str, int]:
    return {name: percent for name, percent in weights.items() if percent}


def read(lines: Iterable[str]) -> tuple[Record, ...]:
    """Return the records of a log. An incomplete last line is skipped; any other invalid line raises ValueError."""
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
