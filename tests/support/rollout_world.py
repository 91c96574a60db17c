"""The environment of a simulated rollout: a deployment in memory, traffic by the mesh's weights, and a fake clock."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.analysis.counts import LATENCY_BUCKETS, SCORE_BINS, Arm, Counts
from rollout.engine.analyst import Analyst
from rollout.engine.checking import Checker
from rollout.engine.lease import Lock
from rollout.engine.promoter import Outcome, Promoter
from rollout.engine.record import Record
from rollout.engine.start import Release, start
from rollout.engine.state import Command, RolloutState, read_state
from rollout.evidence.source import Reading
from rollout.plan.plan import Plan, Step
from tests.support.targets.memory import MemoryTarget

FAST, SLOW = 2, 8  # latency buckets: up to 5 ms, and 75..100 ms


RELEASE = Release("v8", image="churn:8")


PLAN = Plan(
    steps=(
        Step(10, min_duration_s=30, max_duration_s=600, min_requests=100),
        Step(30, min_duration_s=30, max_duration_s=600, min_requests=100),
        Step(50, min_duration_s=30, max_duration_s=600, min_requests=100),
        Step(100, min_duration_s=60, max_duration_s=600, min_requests=100),
    ),
    interval_s=5,
    ready_deadline_s=120,
    watch_held_s=60,
)


def manifest(name: str = "churn", predictor: str = "v7") -> dict[str, Any]:
    """A small deployment that the operator's webhook and our own rules accept."""
    container = {
        "name": "churn",
        "image": "churn:7",
        "env": [{"name": "NOTE", "value": "redis://store?a=1&b=<ü>"}],  # written otherwise by Go than by Python
        "ports": [
            {"name": "http", "containerPort": 9000, "protocol": "TCP"},
            {"name": "grpc", "containerPort": 9500, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 6000, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/v2/models/churn/ready", "port": "http"}},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": "http"}},
        "startupProbe": {"httpGet": {"path": "/v2/models/churn/ready", "port": "http"}},
    }
    return {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": name, "namespace": "models"},
        "spec": {
            "protocol": "v2",
            "predictors": [
                {
                    "name": predictor,
                    "annotations": {"seldon.io/no-engine": "true"},
                    "graph": {"name": "churn", "type": "MODEL"},
                    "componentSpecs": [{"spec": {"containers": [container], "terminationGracePeriodSeconds": 60}}],
                }
            ],
        },
    }


class FakeClock:
    """A clock that moves only when `sleep` is called; `at` calls a function at a given time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.skew_s = 0.0
        self._due: list[tuple[float, Callable[[], object]]] = []

    def wall_s(self) -> float:
        return 1_800_000_000.0 + self.now_s + self.skew_s

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        end_s = self.now_s + max(seconds, 0.001)
        while self._due and min(self._due, key=lambda due: due[0])[0] <= end_s:
            due = min(self._due, key=lambda due: due[0])
            self._due.remove(due)
            self.now_s = max(self.now_s, due[0])
            due[1]()
        self.now_s = end_s

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        self._due.append((self.now_s + seconds, act))


@dataclass
class Behaviour:
    """How one predictor answers: shares of requests."""

    errors: float = 0.0
    slow: float = 0.0
    score: Callable[[random.Random], float] = lambda random: min(max(random.betavariate(2, 5), 0.0), 0.999)


class Traffic:
    """A metric source whose counters follow the clock and the mesh's weights."""

    def __init__(self, target: MemoryTarget, clock: FakeClock, *, per_s: float = 100.0) -> None:
        self._target = target
        self._clock = clock
        self._last_s = clock.now_s
        self._random = random.Random(7)
        self._counts: dict[str, Counts] = {}
        self.per_s = per_s
        self.fails: Exception | None = None
        self.dead: set[str] = set()
        self.slow_bucket = SLOW
        self.behaviour: dict[str, Behaviour] = {}
        self.share: Callable[[Mapping[str, int]], Mapping[str, float]] = lambda weights: {
            name: weight / 100 for name, weight in weights.items()
        }

    def sample(self, predictors: Sequence[str]) -> Reading:
        self._flow()
        if self.fails:
            raise self.fails
        arms = {name: Arm.of(self._counts[name]) for name in predictors if name in self._counts}
        return Reading(arms, at_s=self._clock.now_s)

    def close(self) -> None:
        pass

    def _flow(self) -> None:
        passed_s, self._last_s = self._clock.now_s - self._last_s, self._clock.now_s
        copies = {name: percent / 100 for name, percent in self._target.mesh_mirrors.items()}
        for name, share in (*self.share(self._target.mesh_weights).items(), *copies.items()):
            requests = round(passed_s * self.per_s * share)
            if not requests:
                continue
            how = self.behaviour.get(name, Behaviour())
            errors = sum(self._random.random() < how.errors for _ in range(requests))
            if name in self.dead:
                errors = requests
            slow = sum(self._random.random() < how.slow for _ in range(requests))
            scores, latency = [0] * SCORE_BINS, [0] * LATENCY_BUCKETS
            for _ in range(requests - errors):
                scores[int(how.score(self._random) * SCORE_BINS)] += 1
            latency[FAST], latency[self.slow_bucket] = requests - slow, slow
            window = Counts.of_latency(latency, errors=errors, scores=scores)
            self._counts[name] = self._counts.get(name, Counts()) + window


class Diary:
    """Keeps all records of a promoter."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def notify(self, record: Record, state: RolloutState) -> None:
        assert sum(record.weights_percent.values()) == 100
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        return [record.event for record in self.records if record.event != "Sample"]


@dataclass
class World:
    """Everything around one rollout, in memory."""

    clock: FakeClock = field(default_factory=FakeClock)
    plan: Plan = PLAN
    starts_in_s: float = 12.0

    def __post_init__(self) -> None:
        self.target = MemoryTarget(manifest(), self.clock, starts_in_s=self.starts_in_s)
        self.traffic = Traffic(self.target, self.clock)
        self.diary = Diary()
        self.stopped = False
        self.promoters = 0

    def start(self, release: Release = RELEASE) -> None:
        self.target.patch(start(self.target.read(), release, self.plan, self.clock).operations)

    def promoter(self, traffic: Traffic | None = None, stop: Callable[[], bool] | None = None) -> Promoter:
        self.promoters += 1
        lock = Lock(self.target, self.clock, holder=f"promoter-{self.promoters}")
        return Promoter(
            self.target,
            lock,
            Analyst(traffic or self.traffic),
            self.clock,
            subscriber=self.diary,
            stop=stop or (lambda: self.stopped),
            checker=Checker(self.clock, start=lambda ask: ask()),
        )

    def run(self, command: Command | None = None) -> Outcome:
        if self.state is None or self.state.phase.over:
            self.start()
        return self.promoter().drive(command)

    @property
    def state(self) -> Any:  # a RolloutState; None before the first one
        return read_state(self.target.read().deployment.metadata.annotations)

    @property
    def predictors(self) -> list[str]:
        return [predictor.name for predictor in self.target.read().deployment.predictors]

    def crash(self, name: str) -> None:
        """Make a predictor's pods unready; requests that the mesh still sends there fail."""
        self.target.unready.add(name)
        self.traffic.dead.add(name)

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        edited = copy.deepcopy(dict(self.target.read().manifest))
        change(edited)
        self.target.edit(edited)

    def when(self, percent: int, act: Callable[[], object]) -> None:
        """Call a function once, as soon as the mesh gives v8 this percentage."""

        def look() -> None:
            if self.target.mesh_weights.get("v8", 0) == percent:
                act()
            else:
                self.clock.after(1.0, look)

        self.clock.after(1.0, look)
