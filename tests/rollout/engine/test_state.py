"""What a state asks of the deployment."""

from __future__ import annotations

from typing import Any

import pytest

from rollout.engine.state import Phase, RolloutState
from rollout.plan.plan import Plan


@pytest.mark.parametrize(
    ("phase", "step", "weights"),
    [
        (Phase.PENDING, -1, {"v7": 100, "v8": 0}),
        (Phase.PROGRESSING, 0, {"v7": 90, "v8": 10}),
        (Phase.HELD, 2, {"v7": 50, "v8": 50}),
        (Phase.BAKING, 3, {"v7": 0, "v8": 100}),
        (Phase.FINISHING, 3, {"v8": 100}),
        (Phase.SUCCEEDED, 3, {"v8": 100}),
        (Phase.ROLLING_BACK, 2, {"v7": 100, "v8": 0}),
        (Phase.FAILED, 2, {"v7": 100, "v8": 0}),
    ],
)
def test_the_weights_follow_from_phase_and_step(phase: Any, step: Any, weights: Any) -> None:
    assert RolloutState("id", Plan(), "v7", "v8", phase=phase, step=step).weights == weights
