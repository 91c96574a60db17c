"""The test on labelled rows: its rate of false alarms however often somebody looks, and that it finds a worse model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rollout.analysis.labelled import LabelledRow, LossLimits, differences, evidence, judge, row_loss
from rollout.analysis.verdict import Verdict

LABELS, ROLLOUTS = 3_000, 300
SHARES = (0.1, 0.3, 0.5)  # of the canary, as the weights rise


def rollout(random: np.random.Generator, *, noise: float) -> list[LabelledRow]:
    """One rollout of labelled rows: stable is calibrated, the canary's log-odds have noise (0: it is as good)."""
    margin = random.normal(-1, 1.2, size=LABELS)
    truth = random.random(LABELS) < 1 / (1 + np.exp(-margin))
    is_canary = random.random(LABELS) < np.repeat(SHARES, LABELS // len(SHARES))
    score = 1 / (1 + np.exp(-(margin + noise * random.normal(size=LABELS))))
    loss = (np.where(is_canary, score, 1 / (1 + np.exp(-margin))) - truth) ** 2
    return [
        LabelledRow(None, float(one)) if mine else LabelledRow(float(one), None)
        for one, mine in zip(loss, is_canary, strict=True)
    ]


def alarms(noise: float, seed: int) -> float:
    """Return the share of rollouts in which any look, after any label, fails the canary."""
    random = np.random.default_rng(seed)
    limit = -math.log(LossLimits().alpha)
    return float(np.mean([evidence(differences(rollout(random, noise=noise))).max() >= limit for _ in range(ROLLOUTS)]))


def test_a_canary_as_good_as_stable_rarely_fails_though_every_label_is_a_look() -> None:
    assert alarms(0.0, seed=1) <= LossLimits().alpha  # 15 of 300; by Ville at most 5 % of all rollouts


def test_a_worse_model_is_found() -> None:
    assert alarms(2.5, seed=2) > 0.9


def test_a_canary_beyond_the_limit_rarely_passes() -> None:
    random = np.random.default_rng(3)
    limits = LossLimits(at_most_worse=0.02)
    passed = 0
    for _ in range(ROLLOUTS):
        found = np.clip(random.normal(0.02, 0.3, size=1_000), -1, 1)  # exactly at the limit
        passed += evidence(limits.at_most_worse - found).max() >= -math.log(limits.pass_alpha)
    assert passed <= limits.pass_alpha * ROLLOUTS


def test_verdicts_and_what_they_say() -> None:
    good = judge("labels", rollout(np.random.default_rng(4), noise=0.0), LossLimits(at_most_worse=0.1))
    assert good.verdict is Verdict.PASS
    bad = judge("labels", rollout(np.random.default_rng(5), noise=4.0), LossLimits())
    assert bad.verdict is Verdict.FAIL
    assert "pairs of labelled rows; allowed: up to 0.02 more" in bad.reason
    few = judge("labels", rollout(np.random.default_rng(5), noise=4.0)[:60], LossLimits())
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.needs_requests is not None
    assert judge("labels", [LabelledRow(0.1, None)], LossLimits()).verdict is Verdict.NO_DATA


def test_what_was_shown_once_stays_when_more_labels_come() -> None:
    rows = rollout(np.random.default_rng(6), noise=4.0)
    at = next(count for count in range(200, LABELS, 50) if judge("l", rows[:count], LossLimits()).verdict == "fail")
    later = [LabelledRow(0.4, None), LabelledRow(None, 0.0)] * 300
    assert judge("l", rows[:at] + later, LossLimits()).verdict is Verdict.FAIL


def test_rows_are_paired_with_themselves_or_with_the_next_of_the_other_version() -> None:
    stable, canary = (lambda x: LabelledRow(x, None)), (lambda x: LabelledRow(None, x))
    assert differences([]).tolist() == []
    assert differences([stable(0.1), stable(0.2), canary(0.5)]).tolist() == pytest.approx([0.3])
    assert differences([canary(0.5), stable(0.2), stable(0.1)]).tolist() == pytest.approx([0.3])
    assert differences([stable(0.2), LabelledRow(0.3, 0.4), canary(0.1)]).tolist() == pytest.approx([0.1, -0.1])
    # More labels never change the pairs that were there.
    rows = rollout(np.random.default_rng(7), noise=1.0)[:400]
    whole = differences(rows)
    for count in (100, 250, 399):
        part = differences(rows[:count])
        assert whole[: len(part)].tolist() == part.tolist()


@pytest.mark.parametrize(
    ("kind", "scores", "truth", "loss"),
    [
        ("brier", [0.2], 1, 0.64),
        ("brier", [0.2, 0.5, 0.3], 1, (0.04 + 0.25 + 0.09) / 2),
        ("brier", [1.0, 0.0, 0.0], 2, 1.0),
        ("log_loss", [1.0], 1, 0.0),
        ("log_loss", [0.1], 1, 0.5),
        ("log_loss", [0.0], 1, 1.0),
        ("absolute", [3.0], 5.0, 0.2),
        ("absolute", [3.0], 50.0, 1.0),
        ("absolute", [1.0, 3.0, 9.0], 5.0, 0.2),  # with an interval around the value
    ],
)
def test_losses_are_from_0_to_1(kind: Any, scores: list[float], truth: float, loss: float) -> None:
    assert row_loss(kind, scores, truth, largest_error=10.0) == pytest.approx(loss)
