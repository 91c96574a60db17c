"""What one server in one round is asked, and what happens when an answer fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.compare import measurement, results
from benchmarks.compare.closed_loop import ClosedLoop
from benchmarks.compare.measurement import QUICK
from benchmarks.compare.results import Results
from benchmarks.errors import MeasurementError


class Stub:
    """A server with one query, running."""

    key, title = "project", "this project"
    is_grpc, path, bodies = False, "/predict", (b"{}",)
    headers: Mapping[str, str] = {}

    @property
    def queries(self) -> dict[str, Any]:
        return {"predict": self}

    def target(self, query: Any) -> str:
        return "somewhere"


def visiting(
    measured: Results, monkeypatch: pytest.MonkeyPatch, *, failures: int = 0, stolen: Sequence[float] = ()
) -> measurement.ServerMeasurement:
    asked, shares = iter(range(100)), iter([*stolen, *[0.0] * 100])

    class Steal:
        def share(self) -> float:
            return next(shares)

    def run_wrk(*_: Any, **__: Any) -> ClosedLoop:
        number = next(asked)
        if number < failures:
            raise MeasurementError("59708 answers, errors: {'status': 7}")
        return ClosedLoop(1_000.0 + number, 1.0, 2.0)

    monkeypatch.setattr(measurement, "run_wrk", run_wrk)
    monkeypatch.setattr(measurement, "StealTime", Steal)
    return measurement.ServerMeasurement(Stub(), Stub(), None, QUICK, measured, 2)  # type: ignore[arg-type]


def test_a_closed_loop_with_a_failed_answer_is_repeated_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Results({"project": "this project"})
    assert visiting(measured, monkeypatch, failures=2)._closed("predict", 1.0).requests_per_s == 1_002
    failed = "59708 answers, errors: {'status': 7}"
    assert measured.repeated == [f"round 3, this project, predict: {failed}; {failed}"]


def test_a_closed_loop_that_always_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError, match=r"errors: \{'status': 7\}"):
        visiting(Results({}), monkeypatch, failures=measurement.ATTEMPTS)._closed("predict", 1.0)


def test_a_closed_loop_while_another_machine_had_the_cores_is_repeated_and_the_least_disturbed_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = Results({})
    assert visiting(measured, monkeypatch, stolen=[0.3, 0.04])._closed("predict", 1.0).requests_per_s == 1_002
    said = "round 3, this project, predict: another virtual machine got 30%, 4% of the processor time"
    assert measured.repeated == [said]
    always = [0.3, 0.2, *[0.4] * measurement.ATTEMPTS]
    assert visiting(Results({}), monkeypatch, stolen=always)._closed("predict", 1.0).requests_per_s == 1_001


@dataclass
class Trial:
    """What a trial of the search came to."""

    valid: bool
    stolen: float

    @property
    def disturbance(self) -> str:
        return "another had the cores" if self.stolen > 0.02 else ""


@pytest.mark.parametrize(
    ("trials", "wanted", "listed"),
    [
        ([Trial(True, 0.3)], 0, ""),  # good enough for all that
        ([Trial(False, 0.0)], 0, ""),  # the server's own failure
        ([Trial(False, 0.3), Trial(False, 0.1), Trial(True, 0.0)], 2, "30%, 10%"),
        ([Trial(False, 0.3), Trial(False, 0.0)], 1, "30%"),
        ([Trial(False, share) for share in (0.5, 0.4, 0.1, 0.3, 0.2)], 2, "50%, 40%, 10%, 30%, 20%"),
    ],
)
def test_a_trial_that_failed_while_another_machine_had_the_cores_is_repeated(
    monkeypatch: pytest.MonkeyPatch, trials: list[Trial], wanted: int, listed: str
) -> None:
    measured, made = Results({}), iter(trials)
    monkeypatch.setattr(measurement, "run_load", lambda _: next(made))
    plan = SimpleNamespace(qps=9_000.0)
    assert visiting(measured, monkeypatch)._trial(plan) is trials[wanted]  # type: ignore[arg-type, comparison-overlap]
    assert not list(made)
    said = f"round 3, this project, predict at 9,000/s: another virtual machine got {listed} of the processor time"
    assert measured.repeated == ([said] if listed else [])


def test_the_results_keep_what_was_repeated(tmp_path: Path) -> None:
    measured = Results({}, repeated=["round 1, this project, predict: why"])
    measured.write(tmp_path / "results.json")
    assert results.read_results(tmp_path / "results.json").repeated == measured.repeated
