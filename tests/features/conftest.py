"""What the feature store's tests share: rows that can be told apart, and a clock that the test moves."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from custom_runtime.encoding import WIDTH, Matrix

NAME = "churn"
FINGERPRINT = "a" * 64
OTHER_FINGERPRINT = "b" * 64
UPDATED_AT = 1_700_000_000.25


def rows_of(customer_ids: list[int]) -> Matrix:
    """Rows whose every value follows from the customer's id and the column."""
    columns = np.arange(WIDTH, dtype=np.float32) / 64
    return (np.array(customer_ids, dtype=np.float32)[:, None] + columns).astype(np.float32)


@pytest.fixture(autouse=True)
def collect_what_a_cluster_leaves(request: pytest.FixtureRequest) -> Iterator[None]:
    """Last of all, when the event loop is closed: here, where the test expects the warning (see CLUSTER)."""
    yield
    if "cluster" in request.node.name:
        gc.collect()


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
