"""Labels that came late -> the predictions that they belong to.

A label names its prediction by request id (and the row in the request, where that has several), or by key and time:
then it belongs to the last prediction for that key before the label's time, and within the horizon. Both hold for each
version by itself: what a shadow or a canary has predicted is evidence for it, whatever another version has predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from custom_runtime.active import CONTRACT
from handoff.columns import snake_case
from handoff.errors import DataError

REQUEST_ID, ROW, TIME, VERSION, CONTRACT_COLUMN = "request_id", "row", "time", "version", "contract"


@dataclass(frozen=True, slots=True)
class Joined:
    """Predictions with their labels.

    records: those that have a label, in the order of time, with `truth` added: the class's place, or the value.
    labels: how many were given. unmatched: labels without a prediction. superseded: labels that a later one for
    the same predictions has replaced.
    """

    records: pd.DataFrame
    labels: int
    unmatched: int
    superseded: int
    by: str


def read_labels(path: Path) -> pd.DataFrame:
    """Read labels, CSV or Parquet, with names in snake_case. Raises DataError.

    Labels that name a contract's fingerprint, in the column `contract` or in Parquet's metadata, must name this one.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; allowed: a CSV or Parquet file of labels")
    try:
        if path.suffix in (".parquet", ".pq"):
            table = pq.read_table(path)
            named = (table.schema.metadata or {}).get(b"contract")
            if named is not None:
                _check_contract(path, {named.decode()})
            frame: Any = table.to_pandas()
        else:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as labels: {error}") from error
    frame.columns = [snake_case(str(name)) for name in frame.columns]
    if CONTRACT_COLUMN in frame:
        _check_contract(path, set(frame[CONTRACT_COLUMN].astype(str)))
    label = snake_case(str(CONTRACT.label))
    if label not in frame:
        raise DataError(f"{path} has no column {label!r}; present: {', '.join(frame.columns)}")
    read = _values if CONTRACT.task.kind == "regression" else _places
    frame["truth"] = read(frame[label], path)
    known: pd.DataFrame = frame.dropna(subset=["truth"])
    return known


def join(records: pd.DataFrame, labels: pd.DataFrame, *, horizon: timedelta, salt: str | None = None) -> Joined:
    """Join labels with records. horizon: how long after its prediction a label may come, by key and time.

    salt: of the hashed keys, where the records have no plain ones. Raises DataError.
    """
    if REQUEST_ID in labels:
        found, by = _by_request(records, labels), "request id"
    else:
        found, by = _by_key(records, labels, horizon, salt), "key and time"
    matched = found["label"].nunique()
    last = found.sort_values([TIME, "label"], kind="stable").drop_duplicates("record", keep="last")
    joined = last.sort_values(TIME, kind="stable").reset_index(drop=True)
    return Joined(joined, len(labels), len(labels) - matched, matched - last["label"].nunique(), by)


def _by_request(records: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    wanted = labels.assign(label=np.arange(len(labels)), **{REQUEST_ID: labels[REQUEST_ID].astype(str)})
    wanted[ROW] = pd.to_numeric(wanted[ROW]) if ROW in wanted else 0
    wanted = wanted[["label", "truth", REQUEST_ID, ROW]]
    numbered = records.assign(record=np.arange(len(records)))
    # A caller knows one of the two ids of a V2 request.
    parts = []
    for name in (REQUEST_ID, "inference_id"):
        named = numbered.dropna(subset=[name])
        left = named.drop(columns=[REQUEST_ID]).assign(**{REQUEST_ID: named[name].astype(str)})
        parts.append(left.merge(wanted, on=[REQUEST_ID, ROW], how="inner"))
    return pd.concat(parts, ignore_index=True).drop_duplicates(["record", "label"])


def _by_key(records: pd.DataFrame, labels: pd.DataFrame, horizon: timedelta, salt: str | None) -> pd.DataFrame:
    key = CONTRACT.key
    if key is None or snake_case(key) not in labels or TIME not in labels:
        raise DataError(
            f"the labels have neither {REQUEST_ID!r} nor both {key!r} and {TIME!r}; "
            f"present: {', '.join(labels.columns)}"
        )
    texts = labels[snake_case(key)].astype(str).str.strip()
    column = "key" if records["key"].notna().any() else "key_hash"
    if column == "key_hash":
        if not records["key_hash"].notna().any():
            raise DataError("the records name no keys (SERVING_RECORD_KEY=omitted): labels must have request ids")
        if salt is None:
            raise DataError("the records have hashed keys; give the salt of SERVING_RECORD_SALT with --salt-file")
        from custom_runtime.records.record import key_hash

        texts = texts.map(lambda text: key_hash(salt, text))
    try:
        times = pd.to_datetime(labels[TIME], utc=True).astype("datetime64[us, UTC]")
    except (ValueError, TypeError) as error:
        raise DataError(f"the labels' {TIME!r} cannot be read: {error}; allowed: ISO 8601") from error
    wanted = pd.DataFrame(
        {
            "label": np.arange(len(labels)),
            "truth": labels["truth"].to_numpy(),
            "by": texts.to_numpy(),
            "at": times.to_numpy(),
        }
    )
    wanted["at"] = wanted["at"].dt.tz_localize("UTC") if wanted["at"].dt.tz is None else wanted["at"]
    held = records.assign(record=np.arange(len(records)), by=records[column]).dropna(subset=["by"])
    held = held.assign(at=held[TIME].astype("datetime64[us, UTC]"))
    wanted["at"] = wanted["at"].astype("datetime64[us, UTC]")
    # Each label once for each version, so that a shadow's record takes no label from the champion's.
    wanted = wanted.merge(held[[VERSION]].drop_duplicates(), how="cross")
    matched = pd.merge_asof(
        wanted.sort_values("at", kind="stable"),
        held.sort_values("at", kind="stable"),
        on="at",
        by=["by", VERSION],
        direction="backward",
        tolerance=pd.Timedelta(horizon),
    )
    return matched.dropna(subset=["record"])


_BLANK = ("", "nan", "None", "NaN", "null")


def _places(labels: Any, path: Path) -> Any:
    """Return each label's class as a number, NaN where the cell is blank: not known yet."""
    known: dict[str, float] = {}
    for text in labels.astype(str).str.strip().unique():
        place = None if text in _BLANK else CONTRACT.task.place_of(text)
        if place is None and text not in _BLANK:
            raise DataError(f"{path}: a label is {text!r}; allowed: {', '.join(CONTRACT.task.classes)}, or blank")
        known[text] = np.nan if place is None else float(place)
    return labels.astype(str).str.strip().map(known).astype(np.float64)


def _values(labels: Any, path: Path) -> Any:
    """Return each label's value, NaN where the cell is blank."""
    texts = labels.astype(str).str.strip()
    values = pd.to_numeric(texts.where(~texts.isin(_BLANK)), errors="coerce")
    if len(wrong := texts[~np.isfinite(values) & ~texts.isin(_BLANK)]):
        raise DataError(f"{path}: a label is {wrong.iloc[0]!r}; allowed: a finite number, or blank")
    return values.astype(np.float64)


def _check_contract(path: Path, named: set[str]) -> None:
    others = named - {CONTRACT.fingerprint, ""}
    if others:
        raise DataError(f"{path} has labels of contract {', '.join(sorted(others))}; this is {CONTRACT.fingerprint}")
