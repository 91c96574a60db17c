"""The soak test notices what it is there to notice."""

from pathlib import Path

from benchmarks.soak.result import Fault, Sample, SoakResult, as_json, as_text
from benchmarks.soak.traffic import Outcome

PLOT = Path("var/soak/soak.png")


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


def result() -> SoakResult:
    results = [*["200"] * 1_500, *["503 store_unavailable"] * 20, "lost ConnectionResetError"]
    return SoakResult(
        sent=1_521,
        outcomes=[Outcome("predict", 0.0, 1.0, one, None) for one in results],
        samples=[Sample(float(second), 200.0, 40, 9) for second in range(50)],
        faults=[Fault("store killed", 1.0, 2.0), Fault("store paused", 3.0, 4.0), Fault("store killed", 5.0, 6.0)],
    )


def test_a_person_reads_what_was_sent_what_failed_and_what_is_wrong() -> None:
    assert as_text(result(), PLOT).splitlines() == [
        "sent      1,521 requests: 1,500 x 200, 20 x 503 store_unavailable, 1 x lost ConnectionResetError",
        "lost      1",
        "faults    3: 2 x store killed, 1 x store paused",
        "growth    0.0 MB (allowed: 40), 0 files, 0 tasks for each worker",
        "plot      var/soak/soak.png",
        "logs      var/soak",
        "FAILED    1 x lost ConnectionResetError",
    ]


def test_a_good_run_ends_in_a_verdict_too() -> None:
    assert as_text(healthy(), PLOT).splitlines()[-1].startswith("PASSED    every request was answered or refused")


def test_a_program_reads_the_same() -> None:
    report = as_json(result(), PLOT)
    assert report["results"] == {"200": 1_500, "503 store_unavailable": 20, "lost ConnectionResetError": 1}
    assert (report["sent"], report["lost"], len(report["faults"])) == (1_521, 1, 3)
    assert report["complaints"] == ["1 x lost ConnectionResetError"]
