import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rollout.analysis.paired import LATENCY
from rollout.analysis.verdict import GateResult, Verdict, missing_evidence
from rollout.checks.paired import Paired
from rollout.engine.record import Record
from rollout.errors import ReportError
from rollout.plan.plan import Plan
from rollout.reporting import timeline
from rollout.reporting.report import render, write
from tests.support.programs import GUARD_S, program
from tests.support.rollout_logs import START_S, Story, promoted, rolled_back


class Words(HTMLParser):
    """The words of a page as a person reads them; `tags` are all tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags = "", list[tuple[str, dict[str, str | None]]]()
        self.feed(page)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def save(directory: Path, records: Sequence[Record]) -> Path:
    log = directory / "churn-1.jsonl"
    log.write_text("".join(record.to_line() + "\n" for record in records))
    return log


def test_the_outcome_is_at_the_top() -> None:
    assert "Promoted: churn, v7 → v8 v8 serves alone, v7 is gone" in Words(render(promoted())).text
    page = Words(render(rolled_back(errors=0.05))).text
    assert "Rolled back: churn, v7 → v8 slo_errors: " in page
    assert "verified in the mesh (stage: weights)" in page


@pytest.mark.parametrize(
    ("phase", "head"),
    [
        ("Failed", "Rollback failed: act now"),
        ("Held", "Held"),
        ("Paused", "Waiting for a person"),
        ("Progressing", "Under way"),
        ("", "Under way"),
    ],
)
def test_every_phase_has_a_head(phase: str, head: str) -> None:
    record = Record(START_S, "Any", "churn", "v7", "v8", phase=phase)
    assert f"{head}: churn" in Words(render([record])).text


def test_every_decision_is_there_with_its_evidence() -> None:
    records = rolled_back(errors=0.05)
    page = Words(render(records)).text
    failed = next(record for record in records if record.event == "GateFailed")
    for record in records:
        if record.event != "Sample":
            assert record.event in page
            assert record.message in page
    for result in failed.verdicts:
        assert result.name in page
        assert result.verdict is Verdict.PASS or result.reason in page


def test_the_numbers_are_those_of_the_log() -> None:
    records = promoted()
    page = Words(render(records)).text
    assert f"canary requests{records[-1].counts['v8'].requests:,}" in page
    assert f"{records[-1].counts['v7'].requests:,} on v7" in page


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    words = Words(render(promoted()))
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in words.tags}
    attributes = {name for _, attrs in words.tags for name in attrs}
    assert not {"src", "href", "srcset"} & attributes
    assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in render(promoted())
    assert "@import" not in render(promoted())


def test_the_charts_are_well_formed_and_hold_no_number_that_is_none() -> None:
    page = render(promoted())
    found = drawings(page)
    assert len(found) == 5 + 4  # five over time, one histogram a step
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page)
    for drawing in found:
        height = float(drawing.attrib["viewBox"].split()[3])
        for box in drawing.iter("rect"):
            assert -1 <= float(box.attrib["y"]) <= height
            assert float(box.attrib["x"]) + float(box.attrib["width"]) <= 1061


def test_words_from_outside_cannot_become_markup() -> None:
    hostile = '<script>alert("x")</script>&'
    result = GateResult(hostile, Verdict.FAIL, hostile)
    records = [
        Record(START_S + index, hostile, hostile, hostile, f"{hostile}8", 0, {hostile: 90}, (result,), {}, "", hostile)
        for index in range(3)
    ]
    page = render(records)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    drawings(page)


def test_an_outage_leaves_a_gap_and_is_told_once() -> None:
    page = Words(render(promoted())).text
    assert "slo_errors, slo_latency, caller_errors, caller_latency, restarts, drift: http://prometheus:9090" in page


def test_a_week_of_samples_stays_a_small_page() -> None:
    story = Story(requests=40)
    story.step(10)
    story.windows(4000, {}, until_fail=False)
    assert len(render(story.records)) < 500_000


def test_the_page_lies_beside_its_log_and_replaces_an_older_one(tmp_path: Path) -> None:
    log = save(tmp_path, promoted()[:10])
    assert write(log) == tmp_path / "churn-1.html"
    assert "Under way" in (tmp_path / "churn-1.html").read_text(encoding="utf-8")
    save(tmp_path, promoted())
    write(log)
    assert "Promoted" in (tmp_path / "churn-1.html").read_text(encoding="utf-8")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["churn-1.html", "churn-1.jsonl"]


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"gone\.jsonl cannot be read"):
        write(tmp_path / "gone.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ReportError, match="holds no record"):
        write(empty)
    empty.write_text("{}\n{}\n")
    with pytest.raises(ReportError, match="line 1 of the log is not a record"):
        write(empty)


@pytest.mark.integration
def test_a_browser_lays_the_page_out(tmp_path: Path) -> None:
    """Printed by a real browser: the page makes a PDF of a few sheets, so nothing is collapsed or endless."""
    page = write(save(tmp_path, rolled_back(errors=0.05)))
    printed = tmp_path / "page.pdf"
    subprocess.run(
        [program("chromium"), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--no-pdf-header-footer", f"--print-to-pdf={printed}", page.as_uri()],
        check=True, capture_output=True, timeout=GUARD_S,
    )  # fmt: skip
    sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", printed.read_bytes()))
    shutil.rmtree(tmp_path / "profile", ignore_errors=True)
    assert 2 <= sheets <= 8


def test_what_the_gates_say_is_not_said_twice() -> None:
    results = tuple(
        GateResult(name, Verdict.INCONCLUSIVE, f"{name} is unsure (3 of 5)") for name in ("errors", "drift")
    )
    said = "; ".join(f"{result.name}: {result.reason}" for result in results)
    for message, left in (
        (f"needs about 878 more requests ({said})", "needs about 878 more requests"),
        (f"30 s more at 10 %; {said}", "30 s more at 10 %"),
        ("10 % to v8, 90 % to v7", "10 % to v8, 90 % to v7"),
    ):
        record = Record(
            START_S, "Analysing", "churn", "v7", "v8", 0, {"v8": 10}, results, message=message, phase="Held"
        )
        cell = Words(render([record])).text.split("Every decision")[1]
        assert f"{left} inconclusive errors: errors is unsure (3 of 5)" in cell
        assert cell.count("drift is unsure") == 1


def test_gates_that_wait_for_the_same_are_not_named_twice() -> None:
    waiting = [GateResult(name, Verdict.NO_DATA, "no counts yet") for name in ("errors", "slo_errors", "drift")]
    results = (*waiting, GateResult("paired_scores", Verdict.NO_DATA, "asked 0 s ago"))
    said = f"3 s more at 0 % (shadow); {missing_evidence(results)}"
    record = Record(START_S, "Analysing", "churn", "v7", "v8", 0, {"v7": 100}, results, message=said)
    assert said.count("no counts yet") == 1
    assert timeline.message(record) == "3 s more at 0 % (shadow)"


def test_a_rate_of_a_hundred_percent_is_written_out() -> None:
    story = Story()
    story.step(10)
    story.windows(3, {"errors": 1.0}, until_fail=False)
    page = render(story.records)
    assert "e+0" not in Words(page).text
    assert "100 %" in Words(page).text


def test_a_rolled_back_page_has_the_next_commands() -> None:
    page = Words(render(rolled_back(errors=0.05))).text
    assert "churn-serving rollout run churn --version NAME" in page
    assert "churn-serving rollout undo churn" in Words(render(promoted())).text


def test_a_failed_gate_is_shown_with_the_weights_that_the_mesh_had() -> None:
    records = list(rolled_back(errors=0.05))
    index = next(index for index, record in enumerate(records) if record.event == "GateFailed")
    asked = {"v7": 100, "v8": 0}
    records[index] = replace(records[index], weights_percent=asked, mesh_percent={"v7": 90, "v8": 10})
    page = Words(render(records)).text.replace("\xa0", " ")
    assert "in the mesh:v7 90 %v8 10 %" in page
    records[index] = replace(records[index], mesh_percent={"v7": 100})
    assert "in the mesh:" not in Words(render(records)).text


def test_the_names_left_of_the_charts_have_room_and_a_longer_one_is_shortened() -> None:
    long_name = "errors of the feature store, all pods"
    names = (*Plan().gates.gates, *Paired(records="records").results, LATENCY, "load test", long_name)
    results = tuple(GateResult(name, Verdict.PASS, "so it is") for name in names)
    labels = [
        text
        for drawing in drawings(render([replace(record, verdicts=results) for record in promoted()]))
        for text in drawing.iter("text")
        if text.get("text-anchor") == "end" and text.find("title") is not None
    ]
    assert [str(label.findtext("title")) for label in labels] == list(names)
    for label in labels:
        title, shown = label.findtext("title"), "".join(label.itertext()).removeprefix(str(label.findtext("title")))
        assert float(label.get("x", 0)) >= 6.4 * len(shown)  # 11.5 px letters of DejaVu Sans
        assert shown == title if title != long_name else shown.endswith("…")
