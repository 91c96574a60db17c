"""Prediction records as the service writes them, made without it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa


def table(rows: Sequence[tuple[float, str | None, str, float]], **more: Any) -> Any:
    """Rows of (Unix time, request id, predictor, score); more: further columns."""
    columns = {
        "time": pa.array([datetime.fromtimestamp(row[0], UTC) for row in rows], pa.timestamp("us", tz="UTC")),
        "request_id": pa.array([row[1] for row in rows], pa.string()),
        "predictor": pa.array([row[2] for row in rows], pa.string()),
        "score": pa.array([row[3] for row in rows], pa.float64()),
        "contract": pa.array(["f"] * len(rows), pa.string()),
    }
    return pa.table({**columns, **more})
