from pathlib import Path
from typing import cast

from rollout.engine.announcer import Log
from rollout.engine.state import RolloutState
from rollout.reporting.report import Page
from tests.support.rollout_logs import promoted

STATE = cast(RolloutState, None)  # neither reads it


def test_the_page_follows_the_log_from_change_to_change(tmp_path: Path) -> None:
    journal = Log(tmp_path / "logs" / "churn-1.jsonl")
    page, written = Page(journal.file), 0
    for record in promoted():
        before = page.file.stat().st_mtime_ns if page.file.exists() else 0
        journal.notify(record, STATE)
        page.notify(record, STATE)
        after = page.file.stat().st_mtime_ns
        assert (after > before) == (record.event != "Sample")
        written += after > before
    assert written > 5
    assert "Promoted" in page.file.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_does_not_stop_a_rollout(tmp_path: Path) -> None:
    page = Page(tmp_path / "no-such-directory" / "churn-1.jsonl")
    page.notify(promoted()[0], STATE)
    assert not page.file.exists()
