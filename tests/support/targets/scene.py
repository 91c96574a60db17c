"""One deployment with predictor v7, in a target that a contract test need not know."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rollout.engine.session import RolloutTarget


@dataclass
class Scene:
    """target: what is tested. unready: let a predictor's pods be unready (True) or ready again (False)."""

    target: RolloutTarget
    unready: Callable[[str, bool], None]
    pause: Callable[[], None] = lambda: time.sleep(0.02)

    def until(self, look: Callable[[], Any], *, within_s: float = 15.0) -> Any:
        """Poll until `look` returns something true."""
        deadline_s = time.monotonic() + within_s
        while not (found := look()):
            assert time.monotonic() < deadline_s, f"not within {within_s} s; last: {found!r}"
            self.pause()
        return found
