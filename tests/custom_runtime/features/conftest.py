"""What the feature store's tests share: rows that differ, and a clock that the test moves."""

import gc
from collections.abc import Iterator

import pytest

from tests.support.feature_rows import Clock


@pytest.fixture(autouse=True)
def collect_what_a_cluster_leaves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Last of all, when the event loop is closed: a connection left open warns in the test that left it."""
    yield
    if "cluster" in request.node.name:
        gc.collect()


@pytest.fixture
def clock() -> Clock:
    return Clock()
