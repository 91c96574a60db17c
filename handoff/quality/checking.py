"""One quality check from files to files: reads records, labels and profile, and writes page, JSON and metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from custom_runtime.active import CONTRACT
from custom_runtime.model.bundle import read_bundle
from custom_runtime.records.segments import read_records
from handoff.errors import DataError
from handoff.quality.drift import ROLE, TrainingProfile
from handoff.quality.exposition import render_metrics
from handoff.quality.joining import Joined, join, read_labels
from handoff.quality.measuring import measure_quality
from handoff.quality.page import page
from handoff.quality.results import Quality

COLUMNS = (
    "time", "request_id", "inference_id", "row", "model", "version", "key", "key_hash", "score", "scores",
    "source", "features_time", "features", "challengers", "contract",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JoinedRecords:
    """All records, and those of them that have a label."""

    records: pd.DataFrame
    labelled: Joined


def read_joined(
    records: Path,
    labels: Path,
    *,
    horizon: timedelta = timedelta(days=90),
    since: datetime | None = None,
    salt: str | None = None,
) -> JoinedRecords:
    """Read a directory of records and join a file of labels with it. Raises DataError or StartupError."""
    found = read_frame(records, since)
    return JoinedRecords(found, join(found, read_labels(labels), horizon=horizon, salt=salt))


def check_quality(
    joined: JoinedRecords, *, bundle: Path | None = None, period: str = "7D", made: datetime | None = None
) -> Quality:
    """Measure records with their labels, and drift against the bundle's profile. Raises DataError or StartupError."""
    try:
        pd.tseries.frequencies.to_offset(period)
    except ValueError as error:
        raise DataError(f"period is {period!r}; allowed: a number and a unit, such as 1D, 7D or 1h") from error
    return measure_quality(
        joined.records,
        joined.labelled,
        profile=_profile(bundle),
        made=made or datetime.now(UTC),
        period=period,
    )


def write_quality(quality: Quality, directory: Path) -> Path:
    """Write quality.html, quality.json and quality.prom, each in one rename; return the page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        "quality.json": quality.model_dump_json(indent=2).encode(),
        "quality.prom": render_metrics(quality),
        "quality.html": page(quality).encode(),
    }
    for name, content in contents.items():
        temporary = directory / f".{name}.{os.getpid()}"
        temporary.write_bytes(content)
        temporary.replace(directory / name)
    return directory / "quality.html"


def read_frame(records: Path, since: datetime | None = None) -> pd.DataFrame:
    """Return the records of the active contract in the order of time. Raises DataError or StartupError.

    In a directory of several models (the branches of a graph), `version` is the model and its version.
    """
    table = read_records(records, columns=COLUMNS, since=since, contract=CONTRACT.fingerprint)
    others = set(table["contract"].unique().to_pylist()) - {CONTRACT.fingerprint}
    if others:
        raise DataError(
            f"{records} has records of contract {', '.join(sorted(others))}; this is {CONTRACT.fingerprint}"
        )
    if not table.num_rows:
        when = "" if since is None else f" from {since.isoformat()} on"
        raise DataError(f"{records} has no predictions{when}")
    frame: pd.DataFrame = table.to_pandas().sort_values("time", kind="stable").reset_index(drop=True)
    if frame["model"].nunique() > 1:
        frame["version"] = frame["model"] + " " + frame["version"]
    return frame


def _profile(bundle: Path | None) -> TrainingProfile | None:
    if bundle is None:
        return None
    held = read_bundle(bundle)
    if ROLE not in held.files:
        return None
    try:
        return TrainingProfile.model_validate_json(held.path(ROLE).read_bytes())
    except ValidationError as error:
        raise DataError(f"{held.path(ROLE)} is no training profile: {error}; import the model again") from error
