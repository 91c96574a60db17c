"""Distinguishable rows, and a clock that the test moves: for tests of the feature store."""

import numpy as np

from custom_runtime.model.encoding import WIDTH, Matrix

NAME = "churn"


FINGERPRINT = "a" * 64


OTHER_FINGERPRINT = "b" * 64


UPDATED_AT = 1_700_000_000.25


def rows_of(customer_ids: list[int]) -> Matrix:
    """Rows whose every value follows from the customer's id and the column."""
    columns = np.arange(WIDTH, dtype=np.float32) / 64
    return (np.array(customer_ids, dtype=np.float32)[:, None] + columns).astype(np.float32)


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
