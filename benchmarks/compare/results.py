"""The results of a run: one value for each server, measure and round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.errors import MeasurementError

# The measures, with their units in their names, and their titles in the document.
PREDICT, V2_REST, V2_GRPC = "predict_per_s", "v2_rest_per_s", "v2_grpc_per_s"
# What tritonclient sends: an id, parameters and requested outputs; by default tensors as raw bytes behind the JSON.
V2_OUTPUTS, V2_BINARY = "v2_rest_outputs_per_s", "v2_rest_binary_per_s"
PREDICT_P99 = "predict_closed_loop_p99_ms"
STARTUP, RESIDENT = "startup_s", "resident_mb"
P99_AT_1000, P99_BESIDE_BATCHES, BATCH_ROWS = "p99_at_1000_ms", "p99_beside_batches_ms", "batch_rows_per_s"
CAPACITY = "slo_capacity_qps"
TITLES: Mapping[str, str] = {
    PREDICT: "/predict, closed loop, answers/s",
    PREDICT_P99: "/predict, closed loop, P99, ms",
    V2_REST: "V2 REST, one row, closed loop, answers/s",
    V2_OUTPUTS: "V2 REST, one row, with an id, parameters and requested outputs, closed loop, answers/s",
    V2_BINARY: "V2 REST, one row, binary tensors both ways, closed loop, answers/s",
    V2_GRPC: "V2 gRPC, one row, closed loop, answers/s",
    P99_AT_1000: "/predict, P99 at 1,000 requests/s, ms",
    P99_BESIDE_BATCHES: "/predict, P99 at 500 requests/s beside 10,000-row batches, ms",
    BATCH_ROWS: "rows/s of those batches",
    CAPACITY: "/predict, SLO capacity (P99 <= 50 ms), requests/s",
    STARTUP: "start-up to ready, s",
    RESIDENT: "resident memory after the load, MB",
}


@dataclass(frozen=True, slots=True)
class Results:
    """values: server key -> measure -> one value for each round; titles: server key -> its name for people."""

    titles: dict[str, str]
    notes: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    largest_difference: dict[str, float] = field(default_factory=dict)
    slo_trials: list[tuple[float, float, bool]] = field(default_factory=list)  # rate, P99 in ms, passed
    repeated: list[str] = field(default_factory=list)  # what was measured again, and why

    def add(self, server: str, measure: str, value: float) -> None:
        """Record one round's value."""
        self.values.setdefault(server, {}).setdefault(measure, []).append(value)

    def has(self, server: str, measure: str) -> bool:
        """Return whether a server has values of a measure."""
        return measure in self.values.get(server, {})

    def rounds(self, server: str, measure: str) -> list[float]:
        """Return a measure's values, one for each round. Raises MeasurementError when it was not taken."""
        if not self.has(server, measure):
            raise MeasurementError(f"{measure} of {server} was not measured")
        return self.values[server][measure]

    def median(self, server: str, measure: str) -> float:
        """Return the median over the rounds."""
        return median(self.rounds(server, measure))

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_results(path: Path) -> Results:
    """Read what `write` wrote."""
    stored = json.loads(path.read_text())
    stored["slo_trials"] = [tuple(trial) for trial in stored["slo_trials"]]
    return Results(**stored)
