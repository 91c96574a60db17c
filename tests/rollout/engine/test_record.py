import json

import pytest

from rollout.analysis.counts import LATENCY_BUCKETS, Counts
from rollout.analysis.verdict import GateResult, Verdict
from rollout.engine.record import Record, read

RECORD = Record(
    at_s=1_760_000_000.25,
    event="GateFailed",
    deployment="churn",
    stable="v7",
    canary="v8",
    step=1,
    weights_percent={"v7": 70, "v8": 30},
    verdicts=(GateResult("errors", Verdict.FAIL, "worse", value=0.02, threshold=0.01),),
    counts={"v7": Counts.of_latency([1] * LATENCY_BUCKETS)},
    decision="roll_back",
    message="errors: worse",
    phase="RollingBack",
)


def test_a_record_is_one_line_and_survives_it() -> None:
    line = RECORD.to_line()
    assert "\n" not in line
    assert Record.from_line(line) == RECORD


def test_a_last_line_that_a_crash_cut_off_is_left_out() -> None:
    whole = RECORD.to_line() + "\n"
    assert read([whole, "\n", whole[:40]]) == (RECORD,)


@pytest.mark.parametrize("bad", ["{}\n", "[1]\n", "nonsense\n", json.dumps({"at_s": 1}) + "\n"])
def test_any_other_line_that_is_no_record_is_named(bad: str) -> None:
    whole = RECORD.to_line() + "\n"
    with pytest.raises(ValueError, match="line 2 of the log is not a record"):
        read([whole, bad, whole])


def test_a_number_that_json_cannot_hold_never_gets_into_a_result() -> None:
    with pytest.raises(ValueError, match="finite numbers only"):
        GateResult("errors", Verdict.PASS, "because", value=float("nan"))
