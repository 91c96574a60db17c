"""What the conversion's tests fit their models on: every fifth row of the table."""

from __future__ import annotations

from typing import Any

import pytest

from handoff.dataset import Dataset


@pytest.fixture(scope="module")
def rows(dataset: Dataset) -> Any:
    return dataset.rows[::5]


@pytest.fixture(scope="module")
def labels(dataset: Dataset) -> Any:
    return dataset.labels[::5]
