from pathlib import Path

import pytest

from benchmarks.load.result import LoadResult, Summary
from benchmarks.steal import StealTime


def test_the_share_is_of_the_time_that_was_wanted_since_then(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    #             user nice system idle iowait irq softirq steal guest guest_nice
    stat.write_text("cpu  100 10 50 9000 5 1 4 1000 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    steal = StealTime(stat)
    assert steal.share() == 0
    stat.write_text("cpu  150 10 70 9900 9 2 5 1024 0 0\n")
    assert steal.share() == pytest.approx(24 / (50 + 20 + 1 + 1 + 24))


def test_without_a_count_nothing_was_stolen(tmp_path: Path) -> None:
    assert StealTime(tmp_path / "none").share() == 0


def test_a_load_test_beside_another_machine_says_so() -> None:
    summary = Summary(True, (), 1, 1, 1, 1, 1, 1, 1, 1)
    quiet, taken = (LoadResult(1, summary, 1, {}, "", 0.1, 0, 0, stolen, None, None) for stolen in (0.01, 0.3))  # type: ignore[arg-type]
    assert quiet.disturbance is None
    assert taken.disturbance == "another virtual machine got 30% of the processor time that this one wanted"
