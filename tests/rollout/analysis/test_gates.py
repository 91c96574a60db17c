from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rollout.analysis.counts import LATENCY_BUCKETS, SCORE_BINS, SLO_BUCKET, Arm, Counts
from rollout.analysis.drift import DriftGate
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import GATES_JSON, GateState, blank, update
from rollout.analysis.rate_gates import RelativeGate
from rollout.analysis.verdict import GateResult, OnDoubt, Verdict, combine, missing_evidence

EDGES = np.linspace(0, 1, SCORE_BINS + 1)
UNIMODAL = np.diff(stats.beta(8, 8).cdf(EDGES))
BIMODAL = np.diff(0.5 * stats.beta(2, 8).cdf(EDGES) + 0.5 * stats.beta(8, 2).cdf(EDGES))


WARM = GateConfig(warm_up_s=0.0)
"""The default gates, for pods that are warm from the beginning."""


def counts(
    requests: int,
    *,
    errors: int = 0,
    slow: int = 0,
    rejected: int = 0,
    scores: Sequence[float] = UNIMODAL,
    bucket: int = SLO_BUCKET,
) -> Counts:
    """A window whose scores follow the given shares exactly, and whose slow answers lie in one bucket."""
    latency = [0] * LATENCY_BUCKETS
    latency[2], latency[bucket] = requests - slow, slow
    rows = [round(requests * float(share)) for share in scores]
    return Counts.of_latency(latency, errors=errors, rejected=rejected, scores=rows)


def judge(
    windows: Sequence[tuple[Counts | Arm | None, Counts | Arm | None]],
    config: GateConfig = WARM,
    state: GateState = GateState(),  # noqa: B008 - frozen
    *,
    compare: bool = True,
) -> tuple[GateState, dict[str, GateResult]]:
    results: tuple[GateResult, ...] = ()
    for stable, canary in windows:
        arms = [
            None if counts is None else counts if isinstance(counts, Arm) else Arm.of(counts)
            for counts in (stable, canary)
        ]
        state, results = update(config, state, *arms, compare=compare)
    return state, {result.name: result for result in results}


CALLERS = {"caller_errors", "caller_latency"}


def test_a_healthy_canary_passes_every_gate() -> None:
    _, seen = judge([(counts(9000, errors=4, slow=20), counts(1000, slow=2))] * 2)
    assert {name: result.verdict for name, result in seen.items()} == dict.fromkeys(
        set(GateConfig().gates) - CALLERS, Verdict.PASS
    )


def test_little_traffic_is_inconclusive_and_says_how_much_is_missing() -> None:
    _, seen = judge([(counts(90), counts(10))])
    assert combine(seen.values()) is Verdict.INCONCLUSIVE
    assert seen["slo_latency"].needs_requests == pytest.approx(430, abs=40)
    assert "more canary requests" in seen["slo_latency"].reason
    assert seen["drift"].needs_requests == pytest.approx(190, abs=3)


def test_the_announced_number_of_requests_is_about_enough() -> None:
    state, seen = judge([(counts(1800), counts(200))])
    needs = max(result.needs_requests or 0 for result in seen.values())
    assert combine(seen.values()) is Verdict.INCONCLUSIVE
    _, seen = judge([(counts(9 * needs), counts(needs))], state=state)
    assert combine(seen.values()) is Verdict.PASS


def test_no_verdict_on_a_p99_below_299_requests() -> None:
    only = GateConfig(errors=None, rejections=None, latency=None, slo_errors=None, drift=None)
    for requests in (100, 298):
        assert judge([(counts(9000), counts(requests))], only)[1]["slo_latency"].verdict is Verdict.INCONCLUSIVE


def test_without_series_there_is_no_data() -> None:
    _, seen = judge([(counts(900), None)])
    assert {result.verdict for result in seen.values()} == {Verdict.NO_DATA}
    assert "no series" in seen["errors"].reason


def test_traffic_only_to_stable_is_no_data() -> None:
    _, seen = judge([(counts(900), counts(0))] * 5)
    assert combine(seen.values()) is Verdict.NO_DATA
    assert "no request" in seen["errors"].reason


def test_without_stable_only_the_objectives_are_judged() -> None:
    _, seen = judge([(None, counts(5000))])
    verdicts = {name: result.verdict for name, result in seen.items()}
    assert verdicts["slo_latency"] is verdicts["slo_errors"] is Verdict.PASS
    assert verdicts["errors"] is verdicts["latency"] is verdicts["drift"] is Verdict.NO_DATA


def test_at_a_hundred_percent_there_is_nothing_to_compare_with() -> None:
    _, seen = judge([(counts(0), counts(5000))], compare=False)
    assert set(seen) == {"slo_errors", "slo_latency", "restarts"}
    assert combine(seen.values()) is Verdict.PASS


def test_one_spike_holds_and_a_sustained_fault_fails() -> None:
    quiet, spike = (counts(900, errors=1), counts(100)), (counts(900, errors=1), counts(100, errors=80))
    state, seen = judge([quiet] * 20 + [spike])
    assert combine(seen.values()) is Verdict.INCONCLUSIVE
    assert combine(judge([quiet] * 3, state=state)[1].values()) is Verdict.INCONCLUSIVE
    assert combine(judge([spike] * 4, state=state)[1].values()) is Verdict.FAIL


def test_after_a_spike_a_long_clean_run_passes_again() -> None:
    quiet, spike = (counts(900, errors=1), counts(100)), (counts(900, errors=1), counts(100, errors=20))
    state, seen = judge([spike])
    assert seen["errors"].verdict is Verdict.INCONCLUSIVE
    assert judge([quiet] * 100, state=state)[1]["errors"].verdict is Verdict.PASS


def test_flapping_fails_in_the_end() -> None:
    quiet, spike = (counts(900, errors=9), counts(100, errors=1)), (counts(900, errors=9), counts(100, errors=50))
    _, seen = judge([quiet, quiet, spike] * 6)
    assert combine(seen.values()) is Verdict.FAIL
    assert seen["slo_errors"].verdict is Verdict.FAIL


def test_when_both_degrade_only_the_objectives_fire() -> None:
    _, seen = judge([(counts(900, errors=45, slow=45), counts(100, errors=5, slow=5))] * 30)
    assert seen["errors"].verdict is not Verdict.FAIL
    assert seen["latency"].verdict is not Verdict.FAIL
    assert seen["slo_errors"].verdict is Verdict.FAIL
    assert seen["slo_latency"].verdict is Verdict.FAIL


def test_latency_beyond_the_top_bucket_counts_as_slow() -> None:
    stalled = (counts(900), counts(100, slow=30, bucket=LATENCY_BUCKETS - 1))
    _, seen = judge([stalled] * 6)
    assert seen["latency"].verdict is Verdict.FAIL
    assert seen["slo_latency"].verdict is Verdict.FAIL


def test_a_canary_that_rejects_what_stable_accepts_fails() -> None:
    """It errs never and answers fast: only the 4xx show that its contract differs."""
    _, seen = judge([(counts(900, rejected=9), counts(100, rejected=100, scores=[0.0] * SCORE_BINS))] * 5)
    assert seen["rejections"].verdict is Verdict.FAIL
    assert seen["errors"].verdict is not Verdict.FAIL


def test_four_errors_in_a_million_requests_are_no_reason_to_roll_back() -> None:
    rare = (counts(90_000), counts(10_000, errors=1))
    _, seen = judge([rare] * 8)
    assert seen["errors"].verdict is Verdict.PASS
    strict = replace(WARM, errors=RelativeGate("errors", share=0.25, floor=0.0))
    spread = (
        Arm({f"a{pod}": counts(15_000) for pod in range(6)}),
        Arm({f"b{pod}": counts(1700, errors=1) for pod in range(6)}),
    )
    assert judge([spread] * 8, strict)[1]["errors"].verdict is Verdict.FAIL
    assert judge([spread] * 8)[1]["errors"].verdict is Verdict.PASS


def test_a_tiny_but_significant_drift_passes() -> None:
    nudged = np.diff(stats.beta(8.4, 8).cdf(EDGES))
    stable, canary = counts(90_000), counts(30_000, scores=nudged)
    table = np.array([stable.scores, canary.scores])
    assert stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue < 1e-6
    assert judge([(stable, canary)])[1]["drift"].verdict is Verdict.PASS


def test_two_humps_with_the_same_mean_ask_a_person_or_fail_where_that_is_chosen() -> None:
    centers = (EDGES[:-1] + EDGES[1:]) / 2
    assert float(centers @ UNIMODAL) == pytest.approx(float(centers @ BIMODAL), abs=1e-6)
    _, seen = judge([(counts(1800), counts(300, scores=BIMODAL))])
    assert (seen["drift"].verdict, seen["drift"].asks) == (Verdict.INCONCLUSIVE, True)
    strict = replace(GateConfig(), drift=DriftGate(on_fail=OnDoubt.ROLLBACK))
    _, seen = judge([(counts(1800), counts(300, scores=BIMODAL))], strict)
    assert (seen["drift"].verdict, seen["drift"].asks) == (Verdict.FAIL, False)


def test_a_drift_at_the_threshold_is_inconclusive() -> None:
    lean = np.diff(stats.beta(8.0, 10.2).cdf(EDGES))
    _, seen = judge([(counts(9000), counts(1000, scores=lean))])
    assert seen["drift"].value == pytest.approx(0.045, abs=0.01)
    assert seen["drift"].verdict is Verdict.INCONCLUSIVE
    assert seen["drift"].needs_requests is not None


def test_the_rows_of_one_batch_count_as_one_request() -> None:
    """Ten batches of a thousand rows each are ten callers: too few to speak of another population."""
    batch = [round(10_000 * float(share)) for share in BIMODAL]
    canary = replace(counts(10), scores=tuple(batch))
    _, seen = judge([(counts(9000), canary)])
    assert seen["drift"].verdict is Verdict.INCONCLUSIVE


def test_drift_is_looked_at_at_spaced_samples_only() -> None:
    state, _ = judge([(counts(1800), counts(200))])
    looks = [state.drift.looks]
    for _ in range(12):
        state, _ = judge([(counts(90), counts(20))], state=state)
        looks.append(state.drift.looks)
    assert looks[-1] - looks[0] == 3  # 200 -> 260 -> 340 -> 440 rows, each a quarter more than the last
    assert state.next_step().drift.looks == looks[-1]


def test_a_dry_run_gate_is_shown_and_decides_nothing() -> None:
    config = GateConfig(errors=RelativeGate("errors", share=0.25, dry_run=True), slo_errors=None)
    _, seen = judge([(counts(9000), counts(1000, errors=500))] * 5, config)
    assert seen["errors"].verdict is Verdict.FAIL
    assert seen["errors"].dry_run
    assert combine(seen.values()) is not Verdict.FAIL


def test_a_restart_in_mid_rollout_gives_the_same_verdicts() -> None:
    rng, config = np.random.default_rng(3), GateConfig()
    kept, restored = GateState(), GateState()
    for index in range(60):
        if index in (20, 40):
            kept, restored = kept.next_step(), restored.next_step()
        stable = counts(900, errors=int(rng.poisson(4)), slow=int(rng.poisson(5)))
        canary = counts(100, errors=int(rng.poisson(0.9)), slow=int(rng.poisson(0.6)))
        arms = Arm.of(stable), Arm.of(canary)
        kept, expected = update(config, kept, *arms)
        restored, seen = update(config, GATES_JSON.validate_json(GATES_JSON.dump_json(restored)), *arms)
        assert seen == expected
    assert GATES_JSON.dump_json(restored) == GATES_JSON.dump_json(kept)
    assert len(GATES_JSON.dump_json(kept)) < 6_000


def test_proof_starts_anew_with_a_step_and_harm_is_remembered() -> None:
    good = (counts(9000), counts(1000))
    state, seen = judge([good])
    assert combine(seen.values()) is Verdict.PASS
    assert combine(judge([(counts(9), counts(1))], state=state.next_step())[1].values()) is Verdict.INCONCLUSIVE
    bad = (counts(900, errors=1), counts(100, errors=60))
    state, _ = judge([bad] * 3)
    assert judge([bad], state=state.next_step())[1]["errors"].verdict is Verdict.FAIL
    assert judge([bad])[1]["errors"].verdict is Verdict.INCONCLUSIVE


def test_an_outage_is_recorded_for_every_gate() -> None:
    seen = blank(GateConfig(drift=None), Verdict.ERROR, "prometheus answered 503")
    assert [result.name for result in seen] == [*GateConfig(drift=None).gates]
    assert combine(seen) is Verdict.ERROR


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ("", Verdict.NO_DATA),
        ("pass pass", Verdict.PASS),
        ("pass inconclusive", Verdict.INCONCLUSIVE),
        ("inconclusive no_data", Verdict.NO_DATA),
        ("no_data error pass", Verdict.ERROR),
        ("error fail", Verdict.FAIL),
    ],
)
def test_only_passes_make_a_pass(verdicts: str, together: Verdict) -> None:
    assert combine(GateResult("gate", Verdict(word), "because") for word in verdicts.split()) is together


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"errors": RelativeGate("errors", share=0.9)}, "sum to 1.65: at most 1"),
        ({"pods_differ": 0.0}, "between 0.01 and 10"),
        ({"baseline": "old"}, "allowed: stable, fresh"),
        ({"slo_ms": 60.0}, "slo_ms is 60; it must be an edge of the latency buckets: 1, 2, 5"),
        ({"latency_edges_ms": (5.0, 1.0, 50.0)}, "growing numbers"),
        ({"warm_up": ("cold",)}, "allowed: errors, rejected, slow"),
        ({"warm_up_s": -1.0}, "0 and more"),
    ],
)
def test_settings_that_cannot_hold_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateConfig(**settings)


def test_a_gate_needs_a_share_of_alpha() -> None:
    with pytest.raises(ValueError, match="0 < share"):
        DriftGate(share=0)


def test_gates_that_wait_for_the_same_are_named_together() -> None:
    waits = "waiting for counts"
    results = (
        GateResult("errors", Verdict.NO_DATA, waits),
        GateResult("latency", Verdict.NO_DATA, waits),
        GateResult("drift", Verdict.INCONCLUSIVE, "too few scores", needs_requests=200),
        GateResult("restarts", Verdict.PASS, "none"),
    )
    assert missing_evidence(results[:2]) == "errors, latency: waiting for counts"
    assert missing_evidence(results) == (
        "needs about 200 more requests (errors, latency: waiting for counts; drift: too few scores)"
    )
    assert missing_evidence(results[3:]) == "all gates pass"
    assert missing_evidence(()) == "nothing measured yet"
