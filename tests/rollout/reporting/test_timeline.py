import math
from dataclasses import replace

import pytest

from rollout.analysis.counts import LATENCY_BUCKETS, LATENCY_EDGES_MS, ZERO, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import blank
from rollout.analysis.verdict import GateResult, Verdict
from rollout.engine.record import Record
from rollout.reporting.timeline import MOST_WINDOWS, message, quantile_edge_ms, timeline
from tests.support.rollout_logs import Story, promoted, rolled_back


def test_the_windows_hold_every_request_once() -> None:
    records = promoted()
    line = timeline(records)
    for name in ("v7", "v8"):
        seen = sum((window.counts.get(name, ZERO) for window in line.windows), ZERO)
        assert seen == records[-1].counts[name]


def test_a_window_belongs_to_the_step_in_which_it_began() -> None:
    line = timeline(rolled_back(errors=0.05))
    assert [(stage.step, stage.weight_percent) for stage in line.stages] == [(0, 10), (1, 30)]
    assert line.stages[0].end_s == line.stages[1].start_s
    assert line.stages[0].counts["v8"].errors < line.stages[1].counts["v8"].errors


def test_a_long_rollout_is_joined_to_few_windows_and_loses_nothing() -> None:
    story = Story(requests=50)
    story.step(10)
    story.windows(1500, {}, until_fail=False)
    line = timeline(story.records)
    assert MOST_WINDOWS / 2 <= len(line.windows) <= MOST_WINDOWS + 1
    assert sum(window.counts["v8"].requests for window in line.windows) == story.records[-1].counts["v8"].requests


def test_a_promoter_that_takes_over_begins_to_count_at_zero() -> None:
    first, second = (Record(at, "Sample", "churn", "v7", "v8", 0, {"v7": 90, "v8": 10}) for at in (0.0, 10.0))
    third = replace(second, at_s=20.0)
    seven, three = (Counts.of_latency([count] * LATENCY_BUCKETS) for count in (7, 3))
    line = timeline([first, replace(second, counts={"v8": seven}), replace(third, counts={"v8": three})])
    assert [window.counts["v8"] for window in line.windows] == [seven, three]


def test_the_end_is_what_the_last_phase_says_whatever_is_written_after_it() -> None:
    records = rolled_back(errors=0.05)
    line = timeline([*records, replace(records[-2], at_s=records[-1].at_s + 1)])
    assert line.final.phase == "RolledBack"
    assert [result.verdict for result in line.decisive] == [Verdict.FAIL] * len(line.decisive)
    assert "slo_errors" in [result.name for result in line.decisive]


def test_a_rollout_that_is_held_shows_what_has_not_passed() -> None:
    story = Story()
    story.step(10)
    story.windows(1, {})
    waiting = timeline(story.records).decisive
    assert waiting
    assert all(result.verdict is Verdict.INCONCLUSIVE for result in waiting)
    mute = (GateResult("errors", Verdict.INCONCLUSIVE, "because", dry_run=True),)
    assert timeline([replace(story.records[-1], verdicts=mute)]).decisive == ()


@pytest.mark.parametrize(
    ("latency", "share", "edge"),
    [
        ([0] * LATENCY_BUCKETS, 0.99, math.nan),
        ([99, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 0.99, 1.0),
        ([98, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0], 0.99, 75.0),
        ([0] * 11 + [5], 0.5, math.inf),
    ],
)
def test_a_quantile_is_a_bucket_edge(latency: list[int], share: float, edge: float) -> None:
    assert quantile_edge_ms(latency, share, LATENCY_EDGES_MS) == pytest.approx(edge, nan_ok=True)


def test_a_message_without_its_gates_leaves_no_piece_of_a_name() -> None:
    reason = "prometheus answered 503"
    verdicts = blank(GateConfig(), Verdict.ERROR, reason)
    said = "; ".join(f"{result.name}: {reason}" for result in verdicts)
    record = Record(0.0, "Held", "churn", "v7", "v8", verdicts=verdicts, message=f"no evidence ({said})")
    assert message(record) == "no evidence"
