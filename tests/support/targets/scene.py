"""One deployment with predictor v7, in any target."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from rollout.engine.session import RolloutTarget
from tests.support.programs import GUARD_S


@dataclass
class Scene:
    """target: the target under test. unready: makes a predictor's pods unready (True) or ready again (False).

    operator_dead: stops the operator and its webhook (True) or starts them again (False). operator_state: what a
    failure says of the operator.
    """

    target: RolloutTarget
    unready: Callable[[str, bool], None]
    operator_dead: Callable[[bool], None] = lambda dead: pytest.skip("nobody can end the operator here")
    pause: Callable[[], None] = lambda: time.sleep(0.02)
    operator_state: Callable[[], object] = lambda: ""

    def until(self, look: Callable[[], Any]) -> Any:
        """Poll until `look` returns something true."""
        deadline_s = time.monotonic() + GUARD_S
        while not (found := look()):
            assert time.monotonic() < deadline_s, f"not within {GUARD_S:g} s; last: {found!r}; {self.operator_state()}"
            self.pause()
        return found
