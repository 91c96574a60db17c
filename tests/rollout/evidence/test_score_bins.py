"""The bins of the score follow from what the predictors serve: classes, values or probabilities."""

import pytest

from rollout.analysis.counts import ZERO, Counts, LatencyScale
from rollout.errors import EvidenceMalformed
from rollout.evidence.histogram import Sample, read


def histogram(predictor: str, counts: dict[str, int]) -> list[Sample]:
    return [
        Sample("serving_score_bucket", {"predictor": predictor, "pod": predictor, "le": edge}, ((1.0, float(count)),))
        for edge, count in counts.items()
    ]


def scores(*histograms: dict[str, int]) -> list[tuple[int, ...]]:
    samples = [sample for number, counts in enumerate(histograms) for sample in histogram(f"v{number}", counts)]
    found = read(samples, lambda labels: labels["pod"], scale=LatencyScale())
    return [series.counts(series.last).scores for series in found]


def test_three_classes_have_three_bins() -> None:
    assert scores({"0.0": 5, "1.0": 7, "2.0": 12, "+Inf": 12}) == [(5, 2, 5)]


def test_a_value_beyond_its_declared_range_counts_as_the_highest_bin() -> None:
    assert scores({"100.0": 1, "200.0": 3, "300.0": 6, "+Inf": 10}) == [(1, 2, 7)]


@pytest.mark.parametrize(
    "histograms",
    [
        [{"0.0": 1, "1.0": 1}],  # no +Inf
        [{"0.0": 1, "2.0": 1, "3.0": 1, "+Inf": 1}],  # a bin is missing
        [{"+Inf": 1}],
        [{"10.0": 1, "20.0": 1, "+Inf": 1}, {"15.0": 1, "30.0": 1, "+Inf": 1}],  # models of different contracts
        [{"1.0": 1, "2.0": 1, "+Inf": 1}, {"1.0": 1, "2.0": 1, "3.0": 1, "+Inf": 1}],
    ],
)
def test_scores_that_cannot_be_compared_are_refused(histograms: list[dict[str, int]]) -> None:
    with pytest.raises(EvidenceMalformed, match="serving_score_bucket"):
        scores(*histograms)


def test_counts_of_no_requests_join_any_bins_and_others_do_not() -> None:
    three = Counts(scores=(1, 2, 3))
    assert (ZERO + three).scores == (three - ZERO).scores == (1, 2, 3)
    with pytest.raises(ValueError, match="counts with 3 and with 2 bins do not add up"):
        three + Counts(scores=(1, 2))
