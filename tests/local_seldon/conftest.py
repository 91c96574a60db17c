"""A deployment on this machine as a fixture: begun by the test, drained after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.local_seldon_world import Local, manifest
from tests.support.programs import GUARD_S


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Callable[..., Local]]:
    running: list[Local] = []

    def begin(*predictors: dict[str, Any], wait: bool = True) -> Local:
        one = Local(tmp_path, manifest(*predictors))
        running.append(one)
        one.start()
        if wait:
            one.available()
        return one

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=GUARD_S) as opened:
        yield opened
