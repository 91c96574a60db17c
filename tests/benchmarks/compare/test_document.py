from pathlib import Path

import pytest

from benchmarks.compare import results
from benchmarks.compare.document import BEGIN, END, draw, render, update_document
from benchmarks.compare.goals import judge
from benchmarks.compare.measurement import Durations
from benchmarks.compare.results import Results, read_results
from benchmarks.compare.servers import BARE, FASTAPI, PROJECT, STOCK
from benchmarks.errors import MeasurementError


@pytest.fixture
def measured() -> Results:
    titles = {BARE: "bare app", PROJECT: "this project", STOCK: "stock", FASTAPI: "FastAPI by hand"}
    filled = Results(
        titles, notes={STOCK: "is sent vectors"}, slo_trials=[(9000.0, 12.0, True), (12000.0, 300.0, False)]
    )
    for round_number in range(3):
        filled.add(BARE, results.PREDICT, 25_000 + round_number)
        filled.add(PROJECT, results.PREDICT, 11_000 + round_number)
        filled.add(FASTAPI, results.PREDICT, 1_000)
        filled.add(PROJECT, results.V2_REST, 9_000)
        filled.add(STOCK, results.V2_REST, 1_000)
        filled.add(PROJECT, results.V2_GRPC, 2_500)
        filled.add(STOCK, results.V2_GRPC, 1_200)
    return filled


def test_what_people_wrote_around_the_measured_part_stays(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nA person's words.\n")
    update_document(page, "new")
    assert page.read_text() == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nA person's words.\n"


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("A person's words.\n")
    with pytest.raises(MeasurementError, match="markers"):
        update_document(page, "new")
    assert page.read_text() == "A person's words.\n"


def test_the_page_says_which_goals_are_met_and_which_are_not(measured: Results) -> None:
    page = render(measured, judge(measured), Durations(), ["- processor: x"], ["| function | share |"])
    assert "| /predict, SQLite, over FastAPI by hand | >= 9x | 11x | 11, 11, 11 | met |" in page
    assert "| /predict, SQLite, over the bare ASGI app | >= 0.95x | 0.44x | 0.44, 0.44, 0.44 | **not met** |" in page
    assert "stock (is sent vectors)" in page
    assert "| this project | 11,001 | 11,000 to 11,002 |" in page


def test_results_survive_the_file(tmp_path: Path, measured: Results) -> None:
    measured.write(tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == measured


def test_the_plot_is_a_png(tmp_path: Path, measured: Results) -> None:
    draw(tmp_path / "plot.png", measured)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_in_the_repository_has_its_markers() -> None:
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
