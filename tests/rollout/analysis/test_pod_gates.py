"""What the gates say of pods: that differ, warm up, start with the canary, restart, or are never reached."""

from rollout.analysis.counts import LATENCY_BUCKETS, SLO_BUCKET, Arm, Counts
from rollout.analysis.gate_config import GateConfig
from rollout.analysis.gates import MAX_PODS, GateState, update
from rollout.analysis.verdict import GateResult, Verdict, combine


def counts(requests: int, *, errors: int = 0, slow: int = 0, restarts: int = 0, oom_kills: int = 0) -> Counts:
    latency = [0] * LATENCY_BUCKETS
    latency[2], latency[SLO_BUCKET] = requests - slow, slow
    made = Counts.of_latency(latency, errors=errors)
    return made + Counts(restarts=restarts, oom_kills=oom_kills)


def judge(
    windows: list[tuple[Arm, Arm]],
    config: GateConfig = GateConfig(),  # noqa: B008 - frozen
) -> dict[str, GateResult]:
    state, results = GateState(), tuple[GateResult, ...]()
    for stable, canary in windows:
        state, results = update(config, state, stable, canary, seconds=10.0)
    return {result.name: result for result in results}


def pods(*each: Counts, of: str) -> Arm:
    return Arm({f"{of}-{index}": one for index, one in enumerate(each)})


STABLE = pods(counts(4500), counts(4500), of="v7")


def test_pods_that_differ_too_much_hold_and_the_reason_says_so() -> None:
    stable = pods(counts(4500, errors=2), counts(4500, errors=25), of="v7")
    canary = pods(counts(500, errors=4), counts(500, errors=4), of="v8")
    errors = judge([(stable, canary)] * 30)["errors"]
    assert errors.verdict is Verdict.INCONCLUSIVE
    assert "pods differ by about" in errors.reason
    assert "2.7x stable's rate does not tell the versions apart (2 and 2 pods" in errors.reason


def test_a_pod_that_warms_up_is_measured_and_not_compared() -> None:
    canary = pods(counts(500, slow=20), counts(500, slow=20), of="v8")
    seen = judge([(STABLE, canary)] * 5)
    assert seen["latency"].verdict is seen["slo_latency"].verdict is Verdict.INCONCLUSIVE
    assert "warm up for 10 s more" in seen["latency"].reason
    assert judge([(STABLE, canary)] * 12)["slo_latency"].verdict is Verdict.FAIL


def test_a_pod_that_stays_far_beyond_the_objective_fails_before_it_is_warm() -> None:
    canary = pods(counts(500, slow=300), counts(500, slow=300), of="v8")
    slow = judge([(STABLE, canary)] * 3)["slo_latency"]
    assert slow.verdict is Verdict.FAIL
    assert "more than 10 %, even for pods that warm up" in slow.reason


def test_a_fresh_baseline_compares_with_the_pods_that_started_with_the_canary() -> None:
    config = GateConfig(baseline="fresh", warm_up_s=0.0)
    canary = pods(counts(500, errors=10), counts(500, errors=10), of="v8")
    old = [(STABLE, canary)] * 3
    assert judge(old, config)["errors"].verdict is Verdict.NO_DATA
    assert "no pod of stable has started" in judge(old, config)["errors"].reason
    joined = Arm({**STABLE.pods, "v7-new": counts(500, errors=10)})
    errors = judge([(STABLE, canary), *[(joined, canary)] * 10], config)["errors"]
    assert errors.verdict is not Verdict.FAIL
    assert "2 % of 5,000 on stable" in errors.reason


def test_containers_that_restart_more_often_than_stables_fail() -> None:
    canary = pods(counts(500, restarts=1, oom_kills=1), counts(500), of="v8")
    seen = judge([(STABLE, canary)] * 2)["restarts"]
    assert seen.verdict is Verdict.FAIL
    assert "2 restarts (2 out of memory) on 2 pods" in seen.reason
    everywhere = pods(counts(4500, restarts=1), counts(4500, restarts=1), of="v7")
    assert judge([(everywhere, canary)] * 2)["restarts"].verdict is Verdict.PASS


def test_what_never_reached_a_pod_fails_by_the_callers_view() -> None:
    """The pods count no error; one request in five got the mesh's own 503."""
    canary = Arm(pods(counts(400), counts(400), of="v8").pods, mesh=counts(1000, errors=200))
    stable = Arm(STABLE.pods, mesh=counts(9000))
    seen = judge([(stable, canary)] * 3)
    assert seen["errors"].verdict is not Verdict.FAIL
    assert seen["caller_errors"].verdict is Verdict.FAIL
    assert "caller_errors" not in judge([(STABLE, pods(counts(400), of="v8"))] * 3)


def test_pods_beyond_the_rows_share_the_last_one() -> None:
    many = pods(*[counts(100)] * (MAX_PODS + 9), of="v8")
    state, results = update(GateConfig(), GateState(), STABLE, many)
    assert len(state.canary_pods.names) == MAX_PODS
    assert state.clusters["errors"].canary[:, 4].sum() == 100 * (MAX_PODS + 9)
    assert combine(results) is not Verdict.FAIL


def test_a_canary_whose_pods_are_not_seen_is_judged_by_what_its_callers_saw() -> None:
    """Its processes crash, so none of them answers for itself; the gateway has counted the failures."""
    stable = Arm(STABLE.pods, counts(9000))
    windows = [(stable, Arm(pods(counts(500), of="v8").pods, counts(500)))]
    windows += [(stable, Arm({}, counts(500, errors=250)))] * 3
    seen = judge(windows)
    assert seen["errors"].verdict is Verdict.NO_DATA
    assert seen["caller_errors"].verdict is Verdict.FAIL
