import pytest
from pydantic import TypeAdapter

from rollout.analysis.counts import LATENCY_BUCKETS, LATENCY_EDGES_MS, SLO_BUCKET, ZERO, Counts

LATENCY = tuple(range(LATENCY_BUCKETS))


def test_slow_is_what_lies_above_the_objective() -> None:
    assert LATENCY_EDGES_MS[SLO_BUCKET - 1] == 50.0
    assert Counts.of_latency(LATENCY).slow == sum(LATENCY[7:])


def test_the_difference_of_two_samples_is_a_window() -> None:
    earlier = Counts.of_latency(LATENCY, errors=2, rejected=1, scores=[3] * 20)
    window = Counts.of_latency([1] * LATENCY_BUCKETS, errors=1, scores=[1] * 20)
    assert (earlier + window) - earlier == window
    assert earlier - earlier == ZERO


def test_counts_that_run_backwards_are_refused() -> None:
    with pytest.raises(ValueError, match="below zero"):
        ZERO - Counts.of_latency(LATENCY)


def test_counts_with_other_bins_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="counts with 20 and with 19 bins do not add up"):
        Counts(scores=(1,) * 20) + Counts(scores=(1,) * 19)


def test_counts_survive_json() -> None:
    counts = Counts.of_latency(LATENCY, errors=2, rejected=1, scores=list(range(20)))
    as_json = TypeAdapter(Counts)
    assert as_json.validate_json(as_json.dump_json(counts)) == counts
