from pathlib import Path

import pytest

from benchmarks.errors import MeasurementError
from benchmarks.load.result import FILE, read_summary

TEXT = """
Completed samples per second    : 7147.12
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : NO
  Min queries satisfied : Yes
  Early stopping satisfied: NO
Scheduled samples per second : 8035.67
Min latency (ns)                : 1794
Max latency (ns)                : 625081589
Mean latency (ns)               : 122598211
50.00 percentile latency (ns)   : 8941454
90.00 percentile latency (ns)   : 447628390
99.00 percentile latency (ns)   : 596773189
99.90 percentile latency (ns)   : 622222778
"""


def test_percentiles_rates_and_reasons_are_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(TEXT)
    summary = read_summary(tmp_path)
    assert not summary.valid
    assert (summary.p50_ms, summary.p99_ms, summary.max_ms) == (8.941454, 596.773189, 625.081589)
    assert (summary.scheduled_qps, summary.completed_qps) == (8035.67, 7147.12)
    assert summary.broken == ("Performance constraints", "Min duration", "Early stopping")


def test_a_summary_without_a_figure_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(TEXT.replace("99.90 percentile", "lost"))
    with pytest.raises(MeasurementError, match=r"99\.90 percentile"):
        read_summary(tmp_path)


def test_a_missing_summary_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be read"):
        read_summary(tmp_path)
