"""One deployment with predictor v7, in a target that a contract test need not know."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from rollout.engine.session import RolloutTarget


@dataclass
class Scene:
    """target: what is tested. unready: let a predictor's pods be unready (True) or ready again (False).

    operator_dead: let the operator and its webhook be dead (True) or alive again (False).
    """

    target: RolloutTarget
    unready: Callable[[str, bool], None]
    operator_dead: Callable[[bool], None] = lambda dead: pytest.skip("nobody can end the operator here")
    pause: Callable[[], None] = lambda: time.sleep(0.02)

    def until(self, look: Callable[[], Any], *, within_s: float = 15.0) -> Any:
        """Poll until `look` returns something true."""
        deadline_s = time.monotonic() + within_s
        while not (found := look()):
            assert time.monotonic() < deadline_s, f"not within {within_s} s; last: {found!r}"
            self.pause()
        return found
