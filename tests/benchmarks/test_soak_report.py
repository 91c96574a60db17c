from pathlib import Path

from benchmarks.soak_fault import Fault
from benchmarks.soak_report import as_json, as_text
from benchmarks.soak_result import SoakResult
from benchmarks.soak_sample import Sample
from benchmarks.traffic import Outcome

PLOT = Path("var/soak/soak.png")


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
        "sent      1,521 requests: 1,500 200, 20 503 store_unavailable, 1 lost ConnectionResetError",
        "lost      1",
        "faults    3: 2 store killed, 1 store paused",
        "growth    0.0 MB (allowed: 40), 0 files, 0 tasks for each worker",
        "plot      var/soak/soak.png",
        "FAILED    1 x lost ConnectionResetError",
    ]


def test_a_program_reads_the_same() -> None:
    report = as_json(result(), PLOT)
    assert report["results"] == {"200": 1_500, "503 store_unavailable": 20, "lost ConnectionResetError": 1}
    assert (report["sent"], report["lost"], len(report["faults"])) == (1_521, 1, 3)
    assert report["complaints"] == ["1 x lost ConnectionResetError"]
