"""One server in one round of the comparison: its answers are checked, then every protocol that it has is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.compare import results
from benchmarks.compare.closed_loop import ClosedLoop, Loop, closed_loop, run_h2load, run_wrk
from benchmarks.compare.inputs import Inputs
from benchmarks.compare.queries import answers, big_batch, check_agreement
from benchmarks.compare.results import Results
from benchmarks.compare.server import CLIENT_CPU, RunningServer, Server
from benchmarks.compare.servers import PROJECT
from benchmarks.errors import MeasurementError
from benchmarks.load.capacity import find_peak
from benchmarks.load.open_loop import run_load
from benchmarks.load.result import LoadPlan, LoadResult
from benchmarks.steal import MOST_STOLEN, StealTime

BATCH_ROWS = 10_000
ATTEMPTS = 5
MEASURES = {
    "predict": results.PREDICT,
    "v2-rest": results.V2_REST,
    "v2-rest-outputs": results.V2_OUTPUTS,
    "v2-rest-binary": results.V2_BINARY,
    "v2-grpc": results.V2_GRPC,
}
# The capacity is below the closed loop's rate; the search starts at this share of it.
SEARCH_FROM = 0.6
SEARCH_STEP = 1.25


@dataclass(frozen=True, slots=True)
class Durations:
    """How many rounds, and how long each part of one takes, in seconds; 0 leaves the part out."""

    rounds: int = 3
    warmup_s: float = 1.0
    closed_s: float = 5.0
    open_s: float = 10.0
    trial_s: float = 3.0
    confirm_s: float = 6.0


QUICK = Durations(rounds=1, warmup_s=0.0, closed_s=1.0, open_s=0.0, trial_s=0.0)


@dataclass(frozen=True, slots=True)
class ServerMeasurement:
    """Measures one running server in one round; the results are added to `measured`."""

    server: Server
    running: RunningServer
    inputs: Inputs
    durations: Durations
    measured: Results
    round_number: int

    def measure(self, reference: list[float]) -> None:
        """Check the answers against these probabilities, then measure. Raises MeasurementError for any error."""
        self._add(results.STARTUP, self.running.startup_s)
        for kind, query in self.server.queries.items():
            given = answers(self.running.target(query), query, self.inputs)
            largest = check_agreement(f"{self.server.title}, {kind}", given, reference)
            key = self.server.key
            self.measured.largest_difference[key] = max(largest, self.measured.largest_difference.get(key, 0.0))
            if query.note:
                self.measured.notes[key] = query.note
        for kind in self.server.queries:
            if self.durations.warmup_s:
                self._closed(kind, self.durations.warmup_s)
            closed = self._closed(kind, self.durations.closed_s)
            self._add(MEASURES[kind], closed.requests_per_s)
            if kind == "predict":
                self._add(results.PREDICT_P99, closed.p99_ms)
        if self.server.key == PROJECT and self.durations.open_s:
            self._open_loops()
        self._add(results.RESIDENT, self.running.resident_mb())

    def _add(self, measure: str, value: float) -> None:
        self.measured.add(self.server.key, measure, value)

    def _closed(self, kind: str, duration_s: float) -> ClosedLoop:
        """Run a closed loop, and repeat it a limited number of times; the document lists why.

        It is repeated when an answer failed, and when another machine had the cores; the least disturbed counts then.
        """
        disturbed: list[tuple[float, ClosedLoop]] = []
        errors: list[str] = []
        try:
            for attempt in range(ATTEMPTS):
                steal = StealTime()
                try:
                    loop = self._closed_once(kind, duration_s)
                except MeasurementError as error:
                    if attempt == ATTEMPTS - 1 and not disturbed:
                        raise
                    errors.append(str(error))
                    continue
                stolen = steal.share()
                if stolen <= MOST_STOLEN:
                    return loop
                disturbed.append((stolen, loop))
            return min(disturbed, key=lambda run: run[0])[1]
        finally:
            self._list_repeated(kind, [stolen for stolen, _ in disturbed], errors)

    def _list_repeated(self, kind: str, stolen: list[float], errors: list[str] | tuple[()] = ()) -> None:
        """Say in one line why something was measured again, if it was."""
        reasons = list(errors)
        if stolen:
            shares = ", ".join(f"{share:.0%}" for share in stolen)
            reasons.append(f"another virtual machine got {shares} of the processor time")
        if reasons:
            self.measured.repeated.append(
                f"round {self.round_number + 1}, {self.server.title}, {kind}: {'; '.join(reasons)}"
            )

    def _closed_once(self, kind: str, duration_s: float) -> ClosedLoop:
        query = self.server.queries[kind]
        target = self.running.target(query)
        if query.is_grpc:
            return run_h2load(
                target,
                query.path,
                query.bodies[0],
                duration_s=duration_s,
                cpu=CLIENT_CPU,
                counted=lambda: self.running.counted(query),
            )
        return run_wrk(target, query.path, query.bodies, headers=query.headers, duration_s=duration_s, cpu=CLIENT_CPU)

    def _open_loops(self) -> None:
        query = self.server.queries["predict"]
        plan = LoadPlan(
            target=self.running.target(query),
            path=query.path,
            bodies=query.bodies,
            is_grpc=False,
            qps=1_000,
            duration_s=self.durations.open_s,
            seed=self.round_number,
            cpu=CLIENT_CPU,
        )
        self._add(results.P99_AT_1000, _without_errors(plan).summary.p99_ms)
        batch = big_batch(self.inputs, BATCH_ROWS)
        loop = Loop(plan.target, batch.path, batch.bodies, connections=1, cpu=CLIENT_CPU)
        with closed_loop(loop) as batches:
            beside = _without_errors(replace(plan, qps=500))
        self._add(results.P99_BESIDE_BATCHES, beside.summary.p99_ms)
        self._add(results.BATCH_ROWS, batches[0].requests_per_s * BATCH_ROWS)
        if self.durations.trial_s:
            self._search(plan)

    def _search(self, plan: LoadPlan) -> None:
        trial = replace(plan, duration_s=self.durations.trial_s, warmup_s=0.5)
        capacity = find_peak(
            lambda qps: self._trial(replace(trial, qps=qps)),
            lambda qps: self._trial(replace(trial, qps=qps, duration_s=self.durations.confirm_s)),
            SEARCH_FROM * self.measured.rounds(PROJECT, results.PREDICT)[-1],
            step=SEARCH_STEP,
        )
        for one in capacity.trials:
            self.measured.slo_trials.append((one.qps, one.result.summary.p99_ms, one.result.valid))
        self._add(results.CAPACITY, capacity.peak.result.summary.completed_qps if capacity.peak else 0.0)

    def _trial(self, plan: LoadPlan) -> LoadResult:
        """Run one trial of the search; one that failed while another machine had the cores says nothing of this one."""
        failed: list[LoadResult] = []
        for _ in range(ATTEMPTS):
            result = run_load(plan)
            if result.valid or not result.disturbance:
                break
            failed.append(result)
        else:
            result = min(failed, key=lambda one: one.stolen)
        self._list_repeated(f"predict at {plan.qps:,.0f}/s", [one.stolen for one in failed])
        return result


def _without_errors(plan: LoadPlan) -> LoadResult:
    """Run a load test, and repeat it when the client was the bottleneck, or another machine had the cores.

    Of disturbed runs the least disturbed counts. Raises MeasurementError for any error.
    """
    disturbed: list[LoadResult] = []
    for _ in range(ATTEMPTS):
        result = run_load(plan)
        if result.failures:
            raise MeasurementError(f"{result.failures} of {result.requests} requests failed: {result.example}")
        if result.bottleneck:
            continue
        if not result.disturbance:
            return result
        disturbed.append(result)
    if disturbed:
        return min(disturbed, key=lambda one: one.stolen)
    raise MeasurementError(f"at {plan.qps:g} requests/s {result.bottleneck}; is the machine busy?")
