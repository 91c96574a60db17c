"""The soak test notices what it is there to notice."""

from benchmarks.soak_fault import Fault
from benchmarks.soak_result import SoakResult
from benchmarks.soak_sample import Sample
from benchmarks.traffic import Outcome


def healthy() -> SoakResult:
    result = SoakResult(sent=10)
    result.outcomes = [Outcome("predict", 0.0, 1.0, "200", None) for _ in range(10)]
    result.samples = [Sample(float(second), 200.0, 40, 9) for second in range(50)]
    return result


def test_a_run_that_lost_nothing_and_kept_its_size_is_good() -> None:
    assert healthy().complaints == []


def test_what_is_lost_unaccounted_for_or_still_in_flight_is_complained_of() -> None:
    result = healthy()
    result.outcomes[3] = Outcome("predict", 0.0, 1.0, "lost ConnectionResetError", None)
    result.sent, result.inflight_at_end = 12, 1
    assert result.complaints == [
        "12 requests were sent, 10 are accounted for",
        "1 x lost ConnectionResetError",
        "1 requests are still in flight; allowed: 0",
    ]


def test_a_leak_of_memory_files_or_tasks_is_complained_of() -> None:
    result = healthy()
    result.samples = [Sample(second, 200.0 + second, 40 + second, 9 + second) for second in range(100)]
    assert result.complaints == [
        "a worker grew by 56 MB; allowed: 15",
        "a worker grew by 56 files; allowed: 8",
        "a worker grew by 56 tasks; allowed: 8",
    ]


def test_growth_counts_from_when_the_workers_of_the_last_roll_have_settled() -> None:
    result = healthy()
    result.faults = [Fault("workers rolled", 20.0, 30.0), Fault("workers rolled", 50.0, 60.0)]
    filling = [Sample(second, 150.0 + second, 40, 9) for second in range(90)]
    result.samples = filling + [Sample(second, 240.0, 40, 9) for second in range(90, 200)]
    assert result.complaints == []
    result.samples = filling + [Sample(second, 60.0 + 2 * second, 40, 9) for second in range(90, 200)]
    assert result.complaints == ["a worker grew by 176 MB; allowed: 15"]


def test_a_run_too_short_to_settle_may_fill_its_pools() -> None:
    result = healthy()
    result.faults = [Fault("workers rolled", 2.0, 12.0)]
    result.samples = [Sample(second, 200.0 + 2 * second, 40, 9) for second in range(22)]
    assert result.growth.allowed_mb == 40
    assert result.complaints == []
